"""Measures one model on one number of threads: a process that ``benchmarks.run`` starts.

Reads a :class:`benchmarks.records.Request` from standard input and writes a
:class:`benchmarks.records.ModelResult` as the last line of standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.agreement import TOLERANCES, agreement_of
from benchmarks.flops import count_flops
from benchmarks.models.export import build, model_path
from benchmarks.models.inputs import Array, make_inputs
from benchmarks.models.registry import MODELS
from benchmarks.records import OURS, ModelResult, Request, RuntimeResult
from whet.errors import WhetError
from whet.measure.interleave import Samples, measure_interleaved
from whet.measure.machine import Limits, higher, measure_limits
from whet.measure.memory import MemoryUse, measure_memory
from whet.measure.peers import FILE_RUNNERS, OrtRunner, TorchRunner, file_runner
from whet.measure.runner import Runner
from whet.measure.statistics import compare, noise_of, summarise

FEED_SEEDS = (11, 12, 13, 14)
Feed = dict[str, Array]


def compiled_path(request: Request) -> Path:
    """Return where Whet's compiled file lies."""
    name = f"{request.model}.{request.exporter}.{request.threads}.whet"
    return Path(request.cache) / name


def compile_ours(request: Request, source: Path) -> float:
    """Compile and save a model with Whet and return the seconds that compiling took."""
    import whet

    started = time.perf_counter()
    model = whet.compile(source, options=whet.Options(threads=request.threads, cache_dir=""))
    seconds = time.perf_counter() - started
    model.save(compiled_path(request))
    return seconds


def make_runner(name: str, request: Request, source: Path) -> Runner:
    """Return the runner of a runtime; Whet's starts from the compiled file."""
    if name in ("torch", "torch.compile"):
        return TorchRunner(
            lambda: build(request.model),
            request.threads,
            MODELS[request.model].outputs,
            compiled=name == "torch.compile",
        )
    return file_runner(name, compiled_path(request) if name == OURS else source, request.threads)


def _reason(problem: Exception) -> str:
    lines = str(problem).strip().splitlines() or [""]
    return (
        lines[0][:300]
        if isinstance(problem, WhetError)
        else (f"{type(problem).__name__}: {lines[0][:300]}")
    )


class Preparation:
    """Prepares the runtimes of a request, one failure leaving the others alone."""

    def __init__(self, request: Request, feed: Feed) -> None:
        self.request = request
        self.feed = feed
        self.source = model_path(request.model, request.exporter, Path(request.cache))
        self.runners: list[Runner] = []
        self.results: dict[str, RuntimeResult] = {}
        reference = OrtRunner(self.source, threads=1)
        reference.prepare()
        self.expected = reference.run(feed)

    def add(self, name: str) -> None:
        """Prepare a runtime, check its outputs, and keep it or its error."""
        try:
            self.results[name] = self._prepared(name)
        except Exception as problem:  # noqa: BLE001 - a runtime's failure is a result here
            self.results[name] = RuntimeResult(error=_reason(problem))

    def _prepared(self, name: str) -> RuntimeResult:
        compile_s = compile_ours(self.request, self.source) if name == OURS else None
        runner = make_runner(name, self.request, self.source)
        started = time.perf_counter()
        runner.prepare()
        prepare_s = time.perf_counter() - started
        tolerance = TOLERANCES[MODELS[self.request.model].family]
        agreement = agreement_of(runner.run(self.feed), self.expected, tolerance)
        self.runners.append(runner)
        return RuntimeResult(prepare_s=prepare_s, compile_s=compile_s, agreement=agreement)


def _with_times(
    result: RuntimeResult, seconds: Sequence[float], flops: int, limits: Limits
) -> RuntimeResult:
    times = summarise(tuple(seconds))
    gflops = flops / times.median_ms / 1e6
    return msgspec.structs.replace(
        result, times=times, gflops=gflops, peak_share=gflops / limits.gflops
    )


def _with_memory(name: str, result: RuntimeResult, request: Request, feed: Feed) -> RuntimeResult:
    source = model_path(request.model, request.exporter, Path(request.cache))
    used: MemoryUse = measure_memory(
        name, compiled_path(request) if name == OURS else source, feed, threads=request.threads
    )
    return msgspec.structs.replace(result, memory=used)


def _measured(
    request: Request, prepared: Preparation, samples: Samples, limits: Limits
) -> ModelResult:
    flops = count_flops(prepared.source, prepared.feed)
    results = dict(prepared.results)
    for name, seconds in samples.seconds.items():
        results[name] = _with_times(results[name], seconds, flops, limits)
        if request.memory and name in FILE_RUNNERS:
            results[name] = _with_memory(name, results[name], request, prepared.feed)
    peers = [name for name in samples.seconds if name != OURS]
    return ModelResult(
        model=request.model,
        exporter=request.exporter,
        threads=request.threads,
        flops=flops,
        limits=limits,
        noise=noise_of(samples),
        foreign_cpu=samples.foreign_cpu,
        runtimes=results,
        comparisons=tuple(compare(samples, OURS, peer) for peer in peers)
        if OURS in samples.seconds
        else (),
    )


def measure_model(request: Request) -> ModelResult:
    """Prepare, check, time and weigh all runtimes of a request."""
    feeds = [make_inputs(MODELS[request.model].inputs, seed) for seed in FEED_SEEDS]
    limits = measure_limits(request.threads)
    prepared = Preparation(request, feeds[0])
    for name in request.runtimes:
        prepared.add(name)
    if not prepared.runners:
        return ModelResult(
            model=request.model,
            exporter=request.exporter,
            threads=request.threads,
            error="no runtime could run the model",
            runtimes=prepared.results,
        )
    samples = measure_interleaved(prepared.runners, feeds, request.plan)
    limits = higher(limits, measure_limits(request.threads))
    return _measured(request, prepared, samples, limits)


def main() -> None:
    """Answer the request on standard input."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    answer = msgspec.json.encode(measure_model(request))
    sys.stdout.buffer.write(b"\n" + answer + b"\n")


if __name__ == "__main__":
    main()
