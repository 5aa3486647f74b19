"""Building the models and exporting them to ONNX, once, into a cache folder.

``python -m benchmarks.models.export --models all`` fills the cache; every export runs in a process
of its own, so that one that fails or takes much memory leaves the others alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from benchmarks.models.inputs import make_inputs
from benchmarks.models.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

Exporter = Literal["torchscript", "dynamo"]
EXPORTERS: tuple[Exporter, ...] = ("torchscript", "dynamo")
DEFAULT_CACHE = Path(__file__).parent.parent / ".cache"
DYNAMO_OPSET = 20
BATCH_SEED = 1


class ExportOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one export.

    Attributes:
        error: empty when it worked, else the exporter's reason in one line.
    """

    model: str
    exporter: Exporter
    error: str = ""


def model_path(name: str, exporter: Exporter, cache: Path) -> Path:
    """Return where the exported file lies."""
    suffix = "" if exporter == "torchscript" else ".dynamo"
    return cache / f"{name}{suffix}.onnx"


def outcome_path(name: str, exporter: Exporter, cache: Path) -> Path:
    """Return where the outcome of an export is remembered."""
    return model_path(name, exporter, cache).with_suffix(".export.json")


def build(name: str) -> nn.Module:
    """Return the torch module of a model, weights seeded, in evaluation mode."""
    module, function = MODELS[name].builder.split(":")
    built: nn.Module = getattr(importlib.import_module(f"benchmarks.models.{module}"), function)()
    return built.eval()


def export(name: str, exporter: Exporter, cache: Path) -> ExportOutcome:
    """Build and export one model in this process; the outcome says whether it worked."""
    import torch

    spec = MODELS[name]
    arguments = tuple(torch.from_numpy(a) for a in make_inputs(spec.inputs, BATCH_SEED).values())
    path = model_path(name, exporter, cache)
    temporary = path.with_suffix(".partial")
    cache.mkdir(parents=True, exist_ok=True)
    error = ""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                build(name),
                arguments,
                temporary,
                input_names=[i.name for i in spec.inputs],
                output_names=list(spec.outputs),
                opset_version=spec.opset if exporter == "torchscript" else DYNAMO_OPSET,
                dynamo=exporter == "dynamo",
                external_data=False,
                verbose=False,
            )
        os.replace(temporary, path)
    except Exception as problem:  # noqa: BLE001 - an exporter's failure is a result here
        traceback.print_exc()
        error = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:300]}"
    outcome = ExportOutcome(model=name, exporter=exporter, error=error)
    outcome_path(name, exporter, cache).write_bytes(msgspec.json.encode(outcome))
    return outcome


def ensure(name: str, exporter: Exporter, cache: Path = DEFAULT_CACHE) -> ExportOutcome:
    """Export a model in a fresh process unless the cache remembers its outcome."""
    remembered = outcome_path(name, exporter, cache)
    if not remembered.exists():
        command = [sys.executable, "-m", "benchmarks.models.export", "--one", name, exporter]
        log = remembered.with_suffix(".log")
        cache.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            subprocess.run(
                [*command, "--cache", str(cache)],
                stdout=sink,
                stderr=sink,
                check=False,
                cwd=Path(__file__).parents[2],
            )
    if not remembered.exists():
        return ExportOutcome(model=name, exporter=exporter, error="the exporting process died")
    return msgspec.json.decode(remembered.read_bytes(), type=ExportOutcome)


def main() -> None:
    """Export the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="all", help="comma-separated names, or all")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "EXPORTER"), help="in this process")
    arguments = parser.parse_args()
    if arguments.one:
        model, exporter = arguments.one
        outcome = export(model, exporter, arguments.cache)
        sys.exit(1 if outcome.error else 0)
    names = list(MODELS) if arguments.models == "all" else arguments.models.split(",")
    for exporter in arguments.exporters.split(","):
        for name in names:
            outcome = ensure(name, exporter, arguments.cache)
            print(f"{name:24} {exporter:12} {outcome.error or 'ok'}", flush=True)


if __name__ == "__main__":
    main()
