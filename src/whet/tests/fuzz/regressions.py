"""Reduced models that once failed, kept as tests: a model, its inputs and its level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from whet.tests.fuzz.models import Sample

FOLDER = Path(__file__).parents[1] / "data" / "regressions"
_LEVEL = "opt_level"


def store(sample: Sample, name: str) -> Path:
    """Write a sample where the tests find it; return the model's file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    model.metadata_props.add(key=_LEVEL, value=str(sample.opt_level))
    path = FOLDER / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    arrays = {f"{k}": a for k, a in enumerate(sample.feeds[i.name] for i in model.graph.input)}
    with path.with_suffix(".npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def names() -> list[str]:
    """Return the names of all samples that are kept."""
    return sorted(path.stem for path in FOLDER.glob("*.onnx"))


def read(name: str) -> Sample:
    """Return a sample by name."""
    model = onnx.load(FOLDER / f"{name}.onnx")
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = [file[str(k)] for k in range(len(model.graph.input))]
    level = next(int(p.value) for p in model.metadata_props if p.key == _LEVEL)
    feeds = {i.name: a for i, a in zip(model.graph.input, arrays, strict=True)}
    return Sample(model, feeds, level)
