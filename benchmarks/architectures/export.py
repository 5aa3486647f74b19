"""Exporting one architecture with one exporter, with its named dimensions left open."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from benchmarks.architectures.architecture import Architecture, make_inputs
from benchmarks.architectures.build import SEED, answers, build
from benchmarks.architectures.files import Failure, answers_path, model_path, write_failure
from benchmarks.architectures.registry import ARCHITECTURES
from benchmarks.models.export import DYNAMO_OPSET, Exporter

TORCHSCRIPT_OPSET = 18


def export(
    module: torch.nn.Module, architecture: Architecture, exporter: Exporter, path: Path
) -> None:
    """Write the ONNX file; whatever the exporter raises is passed on."""
    example = make_inputs(architecture, architecture.example, SEED)
    arguments = tuple(torch.from_numpy(a) for a in example.values())
    axes = {
        spec.name: {k: d for k, d in enumerate(spec.dims) if isinstance(d, str)}
        for spec in architecture.inputs
    }
    names = {"input_names": list(axes), "output_names": _output_names(architecture)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(
                module, arguments, path, dynamo=True, opset_version=DYNAMO_OPSET,
                dynamic_shapes=(tuple(axes.values()),), external_data=False, verbose=False, **names,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, arguments, path, dynamo=False, opset_version=TORCHSCRIPT_OPSET,
                dynamic_axes=axes, **names,
            )  # fmt: skip


def _output_names(architecture: Architecture) -> list[str]:
    return [f"{name}_out" for name in architecture.outputs] or ["output"]


def write_answers(module: torch.nn.Module, architecture: Architecture, path: Path) -> None:
    """Write inputs and PyTorch's outputs at all sizes: ``in.0.input_ids``, ``out.0.0``."""
    arrays: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    for k, (inputs, outputs) in enumerate(answers(module, architecture)):
        arrays |= {f"in.{k}.{name}": a for name, a in inputs.items()}
        arrays |= {f"out.{k}.{n}": a for n, a in enumerate(outputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def main() -> None:
    """Export one architecture in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("exporter")
    parser.add_argument("cache", type=Path)
    arguments = parser.parse_args()
    architecture = ARCHITECTURES[arguments.name]
    path = model_path(arguments.cache, arguments.name, arguments.exporter)
    stage = "build"
    try:
        module = build(architecture)
        if not answers_path(arguments.cache, arguments.name).exists():
            write_answers(module, architecture, answers_path(arguments.cache, arguments.name))
        stage = "export"
        export(module, architecture, arguments.exporter, path)
    except Exception as problem:  # noqa: BLE001 - an exporter's failure is a result here
        traceback.print_exc()
        path.unlink(missing_ok=True)
        write_failure(path, Failure(stage=stage, reason=f"{type(problem).__name__}: {problem}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
