"""Golden values: what ONNX Runtime, the ONNX reference or a file says that a model computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import onnx

from whet.errors import OptionError, ResourceError, UnsupportedError, nearest

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

AUTO = "auto"


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Golden values of one feed.

    Attributes:
        source: who computed them.
        values: arrays by name; values that are no tensors are left out.
    """

    source: str
    values: dict[str, Array]


def run_golden(model: onnx.ModelProto, feeds: Feeds, reference: str = AUTO) -> Golden:
    """Compute all outputs of a model.

    Args:
        model: the model.
        feeds: an array for each input.
        reference: ``ort``, ``onnx``, or ``auto``: ONNX Runtime if it is installed and takes the
            model, else ``onnx.reference``; ``Golden.source`` says which, and why.

    Raises:
        OptionError: there is no such reference.
        UnsupportedError: the reference cannot run the model.
        ResourceError: the model is too large to be handed over in memory.
    """
    if reference != AUTO:
        if reference not in REFERENCES:
            raise OptionError(
                f"there is no reference {reference!r}", hint=nearest(reference, REFERENCES)
            )
        return REFERENCES[reference](model, feeds)
    if importlib.util.find_spec("onnxruntime") is None:
        return _run_reference(model, feeds)
    try:
        return _run_ort(model, feeds)
    except UnsupportedError as error:
        golden = _run_reference(model, feeds)
        source = f"{golden.source} ({error.message})"
        return Golden(source=source, values=golden.values)


def _run_ort(model: onnx.ModelProto, feeds: Feeds) -> Golden:
    """Run ONNX Runtime without any graph optimisation, so that it does what the file says."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise OptionError(
            "ONNX Runtime is not installed",
            hint="pip install onnxruntime, or use --reference onnx",
        )
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    names = [v.name for v in model.graph.output]
    try:
        session = ort.InferenceSession(_serialised(model), options, ["CPUExecutionProvider"])
        results: list[Any] = list(session.run(names, dict(feeds)))
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot run the model: {_first_line(error)}",
            hint="use --reference onnx, or golden outputs from a file",
        ) from error
    return Golden(source=f"ONNX Runtime {ort.__version__}", values=_tensors(names, results))


def _run_reference(model: onnx.ModelProto, feeds: Feeds) -> Golden:
    from onnx.reference import ReferenceEvaluator

    names = [v.name for v in model.graph.output]
    try:
        with np.errstate(all="ignore"):
            results: list[Any] = list(ReferenceEvaluator(model).run(names, dict(feeds)))
    except Exception as error:
        raise UnsupportedError(
            f"onnx.reference cannot run the model: {_first_line(error)}",
            hint="give golden outputs from a file",
        ) from error
    values = _tensors(names, results)
    return Golden(source=f"onnx.reference {onnx.__version__}", values=values)


REFERENCES: dict[str, Callable[[onnx.ModelProto, Feeds], Golden]] = {
    "ort": _run_ort,
    "onnx": _run_reference,
}


def _serialised(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise ResourceError(
            "the model with its weights exceeds 2 GiB", hint="use golden outputs from a file"
        ) from error


def _tensors(names: list[str], results: list[Any]) -> dict[str, Array]:
    """Keep what is an array or a number; sequences, maps and absent optionals are left out."""
    kept = {}
    for name, value in zip(names, results, strict=True):
        if isinstance(value, np.ndarray | np.generic | int | float):
            kept[name] = np.asarray(value)
    return kept


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
