"""Models in bfloat16 in Whet and OpenVINO, and against Whet's own float32.

``python -m benchmarks.bfloat16 --models resnet50,mobilenet_v2,bert_base_128,vit_b16 --threads 2``
converts the exported models as ``whet quantize --mode bfloat16`` does, runs them call by call in
one process beside their float32 files, and writes ``benchmarks/results/<device>.bfloat16.md``.
OpenVINO gets the float32 file and its hint for bfloat16, which it has as its default where the
processor multiplies it. ONNX Runtime has no bfloat16 on CPUs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
from whet.measure.peers import OpenVinoRunner, file_runner
from whet.measure.runner import Runner
from whet.quantize.api import Goal
from whet.quantize.config import QuantizeConfig
from whet.quantize.convert import convert_floats
from whet.quantize.static import Request

FEED_SEED = 11
HEADER = (
    "| model | threads | Whet bfloat16 | Whet float32 | OpenVINO bfloat16 "
    "| OpenVINO / Whet | float32 / bfloat16 | correlation with float32 | and OpenVINO's "
    "| MiB bfloat16 / float32 | resident MiB bfloat16 / float32 |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def converted(model: str, source: Path) -> Path:
    """Return the bfloat16 file of a model."""
    target = source.with_name(f"{model}.bfloat16.onnx")
    feed = make_inputs(MODELS[model].inputs, FEED_SEED + 1)
    request = Request(source, [feed], QuantizeConfig())
    convert_floats(request, "bfloat16", Goal()).save(target)
    return target


def measure(model: str, threads: int, cache: Path, plan: Plan) -> str:
    """Measure one model and return its line of the table."""
    source = exported(model, cache)
    small, large = compiled(converted(model, source), threads), compiled(source, threads)
    runners: list[Runner] = [
        Named("whet", file_runner("whet", small, threads)),
        Named("float32", file_runner("whet", large, threads)),
        OpenVinoRunner(source, threads, precision="bf16"),
    ]
    feed: Feed = make_inputs(MODELS[model].inputs, FEED_SEED)
    outputs = first_outputs(runners, feed)
    samples = measure_interleaved(runners, [feed], plan)
    near = (np.corrcoef(outputs[n], outputs["float32"])[0, 1] for n in ("whet", "openvino"))
    cells = [
        model,
        str(threads),
        *times(samples, ("whet", "float32", "openvino")),
        *ratios(samples, ("openvino", "float32")),
        *(f"{n:.5f}" for n in near),
        *sizes(small, large, feed, threads),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure what the command line asks for."""
    parser = option_parser(__doc__, "resnet50,mobilenet_v2,bert_base_128,vit_b16")
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds, duration_s=arguments.duration)
    lines = []
    for model in arguments.models.split(","):
        lines.append(measure(model, arguments.threads, arguments.cache, plan))
        print(lines[-1], flush=True)
    print(write_table("bfloat16", HEADER, lines))


if __name__ == "__main__":
    main()
