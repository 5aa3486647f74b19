"""Models of 8 bits in Whet, ONNX Runtime and OpenVINO, and against Whet's own float32.

``python -m benchmarks.int8 --models resnet50,mobilenet_v2,bert_base_128 --threads 2`` quantises the
exported models with ONNX Runtime's ``quantize_static`` (QDQ, uint8 activations, int8 weights with
a scale for each channel, calibrated on random data), compiles them, runs all of them call by call
in one process and writes ``benchmarks/results/<device>.int8.md``. ``--prepare-only`` stops before
the measurement.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.models.export import model_path
from benchmarks.models.inputs import make_inputs
from benchmarks.models.registry import MODELS
from benchmarks.reduced import (
    Feed,
    Named,
    compiled,
    exported,
    first_outputs,
    option_parser,
    ratios,
    sizes,
    times,
    write_table,
)
from whet.measure.interleave import Plan, measure_interleaved
from whet.measure.peers import file_runner
from whet.measure.runner import Runner

MEASURED = (
    "resnet50,mobilenet_v2,bert_base_128,resnet18,unet,mobilenet_v3_large,efficientnet_b0,yolov5s"
)
CALIBRATION_SEEDS = (21, 22, 23, 24)
FEED_SEED = 11
TRANSFORMER = ["MatMul", "Gemm", "Gather"]
"""What is quantised in models without convolutions: products, as ONNX Runtime advises, and the
tables that rows are gathered from, which are a fifth of BERT-base."""

HEADER = (
    "| model | threads | Whet int8 | Whet float32 | ONNX Runtime int8 | OpenVINO int8 "
    "| ORT / Whet | OpenVINO / Whet | float32 / int8 | correlation with ORT "
    "| MiB int8 / float32 | resident MiB int8 / float32 |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


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


def measure(model: str, threads: int, cache: Path, plan: Plan | None) -> str:
    """Measure one model and return its line of the table; without a plan, only prepare."""
    source = exported(model, cache)
    small = quantised(model, cache)
    files = {
        "whet": (compiled(small, threads), "whet"),
        "float32": (compiled(source, threads), "whet"),
        "ort": (small, "ort"),
        "openvino": (small, "openvino"),
    }
    if plan is None:
        return model
    runners: list[Runner] = [
        Named(name, file_runner(kind, path, threads)) for name, (path, kind) in files.items()
    ]
    feed = make_inputs(MODELS[model].inputs, FEED_SEED)
    outputs = first_outputs(runners, feed)
    samples = measure_interleaved(runners, [feed], plan)
    nearness = np.corrcoef(outputs["whet"], outputs["ort"])[0, 1]
    cells = [
        model,
        str(threads),
        *times(samples, ("whet", "float32", "ort", "openvino")),
        *ratios(samples, ("ort", "openvino", "float32")),
        f"{nearness:.5f}",
        *sizes(files["whet"][0], files["float32"][0], feed, threads),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure what the command line asks for."""
    parser = option_parser(__doc__, MEASURED)
    parser.add_argument("--prepare-only", action="store_true", help="quantise and compile only")
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds, duration_s=arguments.duration)
    lines = []
    for model in arguments.models.split(","):
        chosen = None if arguments.prepare_only else plan
        lines.append(measure(model, arguments.threads, arguments.cache, chosen))
        print(lines[-1], flush=True)
    if arguments.prepare_only:
        return
    print(write_table("int8", HEADER, lines))


if __name__ == "__main__":
    main()
