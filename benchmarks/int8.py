"""Models of 8 bits in Whet, ONNX Runtime and OpenVINO, and against Whet's own float32.

``python -m benchmarks.int8 --models resnet50,mobilenet_v2,bert_base_128 --threads 2`` quantises the
exported models with ONNX Runtime's ``quantize_static`` (QDQ, uint8 activations, int8 weights with
a scale for each channel, calibrated on random data), compiles them, runs all of them call by call
in one process and writes ``benchmarks/results/<device>.int8.md``. ``--prepare-only`` stops before
the measurement.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import whet
from benchmarks.models.export import DEFAULT_CACHE, ensure, model_path
from benchmarks.models.inputs import Array, make_inputs
from benchmarks.models.registry import MODELS
from benchmarks.run import RESULTS, device_slug
from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.machine import describe_machine
from whet.measure.memory import measure_memory
from whet.measure.peers import file_runner
from whet.measure.runner import Runner
from whet.measure.statistics import compare, summarise

CALIBRATION_SEEDS = (21, 22, 23, 24)
FEED_SEED = 11
TRANSFORMER = ["MatMul", "Gemm", "Gather"]
"""What is quantised in models without convolutions: products, as ONNX Runtime advises, and the
tables that rows are gathered from, which are a fifth of BERT-base."""

Feed = dict[str, Array]
HEADER = (
    "| model | threads | Whet int8 | Whet float32 | ONNX Runtime int8 | OpenVINO int8 "
    "| ORT / Whet | OpenVINO / Whet | float32 / int8 | correlation with ORT "
    "| MiB int8 / float32 | resident MiB int8 / float32 |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


class _Named:
    """A runner under another name, so that two of one runtime can take turns."""

    def __init__(self, name: str, inner: Runner) -> None:
        self.name = name
        self.prepare = inner.prepare
        self.run = inner.run


def quantised(model: str, cache: Path) -> Path:
    """Return the QDQ file of a model; it is made if the cache lacks it."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    convolutional = MODELS[model].family == "convolutional"
    target = cache / (f"{model}.int8.onnx" if convolutional else f"{model}.int8.tables.onnx")
    if target.exists():
        return target
    feeds: Iterator[Feed] = iter(
        [make_inputs(MODELS[model].inputs, seed) for seed in CALIBRATION_SEEDS]
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(feeds, None)

    plain = cache / f"{model}.preprocessed.onnx"
    partial = cache / f"{model}.int8.partial.onnx"
    quant_pre_process(model_path(model, "torchscript", cache), plain, skip_symbolic_shape=True)
    quantize_static(
        plain,
        partial,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=None if convolutional else TRANSFORMER,
    )
    plain.unlink()
    os.replace(partial, target)
    return target


def compiled(source: Path, threads: int) -> Path:
    """Return Whet's compiled file of a model."""
    target = source.with_suffix(f".{threads}.whet")
    whet.compile(source, options=whet.Options(threads=threads)).save(target)
    return target


def measure(model: str, threads: int, cache: Path, plan: Plan | None) -> str:
    """Measure one model and return its line of the table; without a plan, only prepare."""
    exported = ensure(model, "torchscript", cache)
    if exported.error:
        raise SystemExit(f"{model}: export failed: {exported.error}")
    small = quantised(model, cache)
    files = {
        "whet": (compiled(small, threads), "whet"),
        "float32": (compiled(model_path(model, "torchscript", cache), threads), "whet"),
        "ort": (small, "ort"),
        "openvino": (small, "openvino"),
    }
    if plan is None:
        return model
    runners: list[Runner] = [
        _Named(name, file_runner(kind, path, threads)) for name, (path, kind) in files.items()
    ]
    feed = make_inputs(MODELS[model].inputs, FEED_SEED)
    outputs = {}
    for runner in runners:
        runner.prepare()
        outputs[runner.name] = next(iter(runner.run(feed).values()))
    samples = measure_interleaved(runners, [feed], plan)
    nearness = np.corrcoef(outputs["whet"].ravel(), outputs["ort"].ravel())[0, 1]
    pair = [files[name][0] for name in ("whet", "float32")]
    sizes = [
        _both(p.stat().st_size for p in pair),
        _both(_resident(p, feed, threads) for p in pair),
    ]
    return _line(model, threads, samples, (float(nearness), sizes))


def _both(numbers: Iterable[float]) -> str:
    """Return bytes of two things in MiB, and the first as a share of the second."""
    small, large = numbers
    return f"{small / 2**20:.0f} / {large / 2**20:.0f} ({small / large:.0%})"


def _resident(file: Path, feed: Feed, threads: int) -> int:
    """Return bytes that loading a compiled file and one run add to a fresh process."""
    use = measure_memory("whet", file, feed, threads=threads)
    return use.after_bytes - use.before_bytes


def _line(model: str, threads: int, samples: Samples, facts: tuple[float, list[str]]) -> str:
    cells = [model, str(threads)]
    for name in ("whet", "float32", "ort", "openvino"):
        times = summarise(samples.seconds[name])
        cells.append(f"{times.best_ms:.2f} / {times.median_ms:.2f}")
    for peer in ("ort", "openvino", "float32"):
        cells.append(f"{compare(samples, 'whet', peer).ratio:.2f}")
    nearness, sizes = facts
    cells += [f"{nearness:.5f}", *sizes]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet50,mobilenet_v2,bert_base_128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--duration", type=float, help="seconds after which rounds stop")
    parser.add_argument("--prepare-only", action="store_true", help="quantise and compile only")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds, duration_s=arguments.duration)
    lines = []
    for model in arguments.models.split(","):
        chosen = None if arguments.prepare_only else plan
        lines.append(measure(model, arguments.threads, arguments.cache, chosen))
        print(lines[-1], flush=True)
    if arguments.prepare_only:
        return
    machine = describe_machine()
    path = RESULTS / f"{device_slug(machine)}.int8.md"
    note = f"{machine.cpu}, {machine.cpus} CPUs; best / median ms; ratios are medians of pairs.\n"
    text = "\n".join(["# int8", "", note, *HEADER, *lines, ""])
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
    print(path)


if __name__ == "__main__":
    main()
