"""Single layers in Whet and its peers against the machine's limits, on one thread.

``python -m benchmarks.kernels --layers all`` writes ``benchmarks/results/<device>.kernels.json``
and ``.kernels.md``. The roofline time of a layer is the larger of its operations over the
multiply-add peak and its least traffic over the memory bandwidth, both measured in the same
process; a layer whose operands stay in a cache can be faster than the second.

Two times are told apart. The *call* is the whole model: its images are NCHW, and their change to
channels last and back is part of it, in every runtime. The *launch* is the kernel that computes the
layer from images that are channels last already, which is what a network spends on it, as images
stay so between its layers; :mod:`benchmarks.dense` measures that inside of networks, with cold
weights.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import onnx

from benchmarks.agreement import TOLERANCES, agreement_of
from benchmarks.layers import (
    LAYERS,
    Layer,
    channels_last,
    layer_model,
    least_bytes,
    make_layer_inputs,
)
from benchmarks.records import OURS, Agreement
from benchmarks.run import RESULTS, ROOT, device_slug
from benchmarks.tables import markdown_head, markdown_row
from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.machine import Limits, Machine, describe_machine, higher, measure_limits
from whet.measure.peers import OrtRunner, file_runner
from whet.measure.profile.launches import profile_model
from whet.measure.runner import Inputs, Runner, WhetRunner
from whet.measure.statistics import Comparison, Noise, Summary, compare, noise_of, summarise
from whet.options import Options

PEERS = ("ort", "openvino")
TIME_LIMIT_S = 300
LARGE_FLOPS = 50e6
"""Dense layers of so many operations are expected to come near the multiply-add peak."""
WANTED_SHARE = 0.8
PROFILED_RUNS = 5
"""Runs whose median is one sample of a launch; the least of the samples counts."""


class LayerResult(msgspec.Struct, frozen=True, kw_only=True):
    """One layer on one thread.

    Attributes:
        roofline_ms: the least time the machine's limits allow.
        launch_ms: the least time of Whet's kernel, images channels last; 0 if unknown.
        times: by runtime.
        errors: by runtime, why there are no times.
    """

    layer: str
    flops: int = 0
    least_bytes: int = 0
    limits: Limits | None = None
    roofline_ms: float = 0.0
    launch_ms: float = 0.0
    times: dict[str, Summary] = {}
    comparisons: tuple[Comparison, ...] = ()
    agreement: Agreement | None = None
    errors: dict[str, str] = {}
    noise: Noise | None = None


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """All layers on one device."""

    machine: Machine
    results: tuple[LayerResult, ...]
    rounds: int = 30


def roofline_ms(layer: Layer, limits: Limits) -> float:
    """Return the least milliseconds that the machine's limits allow."""
    compute = layer.flops / limits.gflops
    traffic = least_bytes(layer) / limits.read_gbytes
    return max(compute, traffic) / 1e6


def _prepare(path: Path, names: tuple[str, ...]) -> tuple[list[Runner], dict[str, str]]:
    runners, errors = [], {}
    for name in names:
        runner = file_runner(name, path, threads=1)
        try:
            runner.prepare()
        except Exception as problem:  # noqa: BLE001 - a runtime's failure is a result here
            errors[name] = (str(problem).strip().splitlines() or [""])[0][:300]
        else:
            runners.append(runner)
    return runners, errors


def _agreement(runners: list[Runner], path: Path, inputs: Inputs) -> Agreement | None:
    """Compare Whet's output with ONNX Runtime's, if Whet is there."""
    ours = [runner for runner in runners if runner.name == OURS]
    if not ours:
        return None
    reference = OrtRunner(path, threads=1)
    reference.prepare()
    return agreement_of(ours[0].run(inputs), reference.run(inputs), TOLERANCES["convolutional"])


def least_launch_ms(layer: Layer, folder: Path, feeds: Sequence[Inputs], rounds: int) -> float:
    """Return the least time of the launch that computes the layer, as it is between others."""
    path = folder / "between.onnx"
    onnx.save(layer_model(layer, images_last=True), path)
    runner = WhetRunner(path, Options(threads=1))
    runner.prepare()
    moved = [{name: channels_last(x) for name, x in feed.items()} for feed in feeds]
    least = float("inf")
    for turn in range(rounds):
        launches = profile_model(runner.model, moved[turn % len(moved)], PROFILED_RUNS).launches
        largest = max(launches, key=lambda launch: launch.flops)
        least = min(least, largest.span_us / 1e3)
    return least


def _comparisons(samples: Samples) -> tuple[Comparison, ...]:
    if OURS not in samples.seconds:
        return ()
    return tuple(compare(samples, OURS, peer) for peer in samples.seconds if peer != OURS)


def measure_layer(name: str, runtimes: tuple[str, ...], plan: Plan) -> LayerResult:
    """Measure one layer in this process."""
    layer, limits = LAYERS[name], measure_limits(threads=1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(layer_model(layer), path)
        feeds = [make_layer_inputs(layer, seed) for seed in (1, 2)]
        runners, errors = _prepare(path, runtimes)
        agreement = _agreement(runners, path, feeds[0])
        samples = measure_interleaved(runners, feeds, plan)
        launch_ms = 0.0
        if OURS in samples.seconds:
            launch_ms = least_launch_ms(layer, Path(folder), feeds, plan.rounds)
    limits = higher(limits, measure_limits(threads=1))
    return LayerResult(
        layer=name,
        flops=layer.flops,
        least_bytes=least_bytes(layer),
        limits=limits,
        roofline_ms=roofline_ms(layer, limits),
        launch_ms=launch_ms,
        times={runner: summarise(seconds) for runner, seconds in samples.seconds.items()},
        comparisons=_comparisons(samples),
        agreement=agreement,
        errors=errors,
        noise=noise_of(samples),
    )


def run_layer(name: str, arguments: argparse.Namespace) -> LayerResult:
    """Measure one layer in a fresh process; a crash becomes its error."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--one", name]
    command += ["--rounds", str(arguments.rounds), "--lead-in", str(arguments.lead_in)]
    command += ["--peers-only"] if arguments.peers_only else []
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, cwd=ROOT, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return LayerResult(layer=name, errors={"process": f"not done after {TIME_LIMIT_S} s"})
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=LayerResult)
    words = done.stderr.decode(errors="replace").strip().splitlines() or [""]
    return LayerResult(
        layer=name, errors={"process": f"status {done.returncode}: {words[-1][:200]}"}
    )


def _cells(result: LayerResult, name: str) -> list[str]:
    """Return the median and GFLOP/s with the share of the peak, from the best time."""
    times = result.times.get(name)
    if times is None or result.limits is None:
        return ["–", "–"]
    gflops = result.flops / times.best_ms / 1e6
    share = 100 * gflops / result.limits.gflops
    return [f"{times.best_ms:.3f} / {times.median_ms:.3f}", f"{gflops:.0f} ({share:.0f} %)"]


def share_of_peak(result: LayerResult) -> float | None:
    """Return the rate of Whet's launch over the multiply-add peak measured beside it."""
    if not result.launch_ms or result.limits is None:
        return None
    return result.flops / result.launch_ms / 1e6 / result.limits.gflops


def call_share_of_peak(result: LayerResult) -> float | None:
    """Return the rate of Whet's best call over the multiply-add peak measured beside it."""
    times = result.times.get(OURS)
    if times is None or result.limits is None:
        return None
    return result.flops / times.best_ms / 1e6 / result.limits.gflops


def _launch_cells(result: LayerResult) -> list[str]:
    """Return the launch's time and its share of the peak."""
    share = share_of_peak(result)
    if share is None:
        return ["–", "–"]
    return [f"{result.launch_ms:.3f}", f"{100 * share:.0f} %"]


def _count_line(
    title: str, results: list[LayerResult], share: Callable[[LayerResult], float | None]
) -> str:
    """Say how many large dense layers come near the peak, and name those that do not."""
    shares = [(result.layer, found) for result in results if (found := share(result)) is not None]
    short = [f"{name} ({100 * found:.0f} %)" for name, found in shares if found < WANTED_SHARE]
    reached = f"- {title}: {len(shares) - len(short)} of {len(shares)}"
    return f"{reached}; below it: {', '.join(short)}." if short else f"{reached}."


def _summary(results: tuple[LayerResult, ...]) -> list[str]:
    """Say how many large dense layers come near the peak, alone and with what surrounds them."""
    large = [r for r in results if LAYERS[r.layer].dense and r.flops > LARGE_FLOPS]
    return [
        "",
        f"Dense convolutions and Gemms above {LARGE_FLOPS / 1e6:.0f} MFLOP that reach "
        f"{100 * WANTED_SHARE:.0f} % of the peak:",
        "",
        _count_line("the layer's launch", large, share_of_peak),
        _count_line("the whole call", large, call_share_of_peak),
        "",
        "Operations are those of the direct algorithm: Winograd convolution may pass 100 %. The",
        "launch computes the layer from images that are channels last, as they are between the",
        "layers of a network; the call gets NCHW images, as the file has it, and gives such.",
        "The launches of 3x3 layers are direct here: Winograd convolution, which the calls and",
        "networks use, is not chosen for images that come from outside with their channels last.",
    ]


def _row(result: LayerResult, names: list[str]) -> str:
    closest = min(result.comparisons, key=lambda c: c.ratio, default=None)
    right = "" if result.agreement is None or result.agreement.passed else " **wrong**"
    return markdown_row(
        [
            result.layer + right,
            f"{result.flops / 1e6:.0f}",
            f"{result.roofline_ms:.3f}",
            *_launch_cells(result),
            *(cell for name in names for cell in _cells(result, name)),
            f"{closest.ratio:.2f} {closest.peer}" if closest else "",
            result.noise or "; ".join(result.errors.values()),
        ]
    )


def markdown(report: KernelReport) -> str:
    """Return the report as Markdown."""
    found = {name for result in report.results for name in result.times}
    names = sorted(found, key=lambda name: (name != OURS, name))
    titles = ["layer", "MFLOP", "roofline ms", "launch ms", "of peak"]
    for name in names:
        titles += [f"{name} best / median ms", f"{name} GFLOP/s (of peak)"]
    machine = report.machine
    peaks = [result.limits.gflops for result in report.results if result.limits is not None]
    lines = [
        f"# Single layers on {machine.cpu} ({machine.llvm_cpu}), one thread, f32",
        "",
        f"Made by `python -m benchmarks.kernels --layers all --rounds {report.rounds}`.",
        f"Multiply-add peak measured: up to {max(peaks, default=0):.0f} GFLOP/s. GFLOP/s are of "
        "the best time; the ratio is the closest peer's time over Whet's, median of pairs.",
        "",
        *markdown_head([*titles, "ratio", "noise"]),
        *(_row(result, names) for result in report.results),
        *_summary(report.results),
    ]
    return "\n".join([*lines, ""])


def merged(path: Path, report: KernelReport) -> KernelReport:
    """Return the report with the layers of an earlier one on the same machine that it lacks."""
    if not path.exists():
        return report
    earlier = msgspec.json.decode(path.read_bytes(), type=KernelReport)
    rows = {result.layer: result for result in (*earlier.results, *report.results)}
    kept = tuple(rows[name] for name in LAYERS if name in rows)
    return msgspec.structs.replace(report, results=kept)


def write_report(folder: Path, report: KernelReport, *, merge: bool) -> Path:
    """Write JSON and Markdown and return the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{device_slug(report.machine)}.kernels"
    if merge:
        report = merged(base.with_name(base.name + ".json"), report)
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    for suffix, content in ((".json", encoded), (".md", markdown(report).encode())):
        target = base.with_name(base.name + suffix)
        temporary = target.with_name(target.name + ".partial")
        temporary.write_bytes(content)
        os.replace(temporary, target)
    return base.with_name(base.name + ".md")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", default="*", help="patterns, such as 'bert_*,vgg_*'")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--lead-in", type=float, default=0.01)
    parser.add_argument("--peers-only", action="store_true", help="leave Whet out")
    parser.add_argument("--merge", action="store_true", help="keep layers that this run lacks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", metavar="LAYER", help="in this process, JSON to the terminal")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    arguments = parse_arguments()
    runtimes = PEERS if arguments.peers_only else (OURS, *PEERS)
    if arguments.one:
        plan = Plan(rounds=arguments.rounds, lead_in_s=arguments.lead_in)
        answer = msgspec.json.encode(measure_layer(arguments.one, runtimes, plan))
        sys.stdout.buffer.write(b"\n" + answer + b"\n")
        return
    patterns = "*" if arguments.layers == "all" else arguments.layers
    chosen = {name for p in patterns.split(",") for name in fnmatch.filter(LAYERS, p)}
    machine, results = describe_machine(), []
    for name in (name for name in LAYERS if name in chosen):
        results.append(run_layer(name, arguments))
        print(_row(results[-1], [n for n in (OURS, *PEERS) if n in runtimes]), flush=True)
        report = KernelReport(machine=machine, results=tuple(results), rounds=arguments.rounds)
        path = write_report(arguments.results, report, merge=arguments.merge)
    if results:
        print(path)


if __name__ == "__main__":
    main()
