"""A failing model made small: fewer nodes, fewer outputs, smaller extents, simpler numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from whet.tests.fuzz.draft import Array
from whet.tests.fuzz.models import Sample

Fails = Callable[[Sample], bool]
_MOST_ROUNDS = 20


def reduce_sample(sample: Sample, fails: Fails) -> Sample:
    """Return the smallest sample found that still fails, changing one thing at a time.

    Args:
        sample: one that fails.
        fails: whether a sample shows the same fault; whatever it raises counts as no.
    """
    current = sample
    for _ in range(_MOST_ROUNDS):
        size = _size(current)
        candidates = (c for c in _candidates(current) if _size(c) < size)
        smaller = next((c for c in candidates if _still(c, fails)), None)
        if smaller is None:
            return current
        current = smaller
    return current


def _size(sample: Sample) -> tuple[int, int, int, int]:
    """Return what is to become smaller: nodes, outputs, elements, numbers other than 0 and 1."""
    arrays = _arrays(sample).values()
    graph = sample.model.graph
    odd = sum(int(((a != 0) & (a != 1)).sum()) for a in arrays if a.dtype.kind == "f")
    return len(graph.node), len(graph.output), sum(a.size for a in arrays), odd


def _still(sample: Sample, fails: Fails) -> bool:
    try:
        onnx.shape_inference.infer_shapes(sample.model, check_type=True, strict_mode=True)
        return fails(sample)
    except Exception:  # noqa: BLE001 - a candidate that makes no sense
        return False


def _candidates(sample: Sample) -> Iterator[Sample]:
    """Yield simpler samples, those that take most away first."""
    nodes = sample.model.graph.node
    values = _values(sample)
    for node in nodes:
        for name in node.output:
            if name in values:
                yield _ending_in(sample, [name], values)
    outputs = [o.name for o in sample.model.graph.output]
    if len(outputs) > 1:
        for name in outputs:
            yield _ending_in(sample, [name], values)
    for position in range(len(nodes)):
        yield _without(sample, position, values)
    yield from _smaller(sample)
    yield from _simpler(sample)


def _values(sample: Sample) -> dict[str, Array]:
    """Return all values of a model that the reference computes."""
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    names = [n for node in model.graph.node for n in node.output if n]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = ReferenceEvaluator(model).run(None, dict(sample.feeds))
        except Exception:  # noqa: BLE001 - it raises whatever NumPy raises
            return {}
    return {n: np.asarray(a) for n, a in zip(names, found, strict=True)}


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )


def _ending_in(sample: Sample, outputs: list[str], values: dict[str, Array]) -> Sample:
    """Return the sample with these outputs alone, and only what they need."""
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    known = {o.name: o for o in model.graph.output}
    kept = [known[n] if n in known else _info(n, values[n]) for n in outputs]
    kept = [onnx.ValueInfoProto.FromString(k.SerializeToString()) for k in kept]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return _pruned(replace(sample, model=model))


def _pruned(sample: Sample) -> Sample:
    """Drop nodes, inputs and constants that no output needs; in place."""
    graph = sample.model.graph
    needed = {o.name for o in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            nodes.append(node)
    for field, kept in (
        (graph.node, nodes[::-1]),
        (graph.input, [i for i in graph.input if i.name in needed]),
        (graph.initializer, [t for t in graph.initializer if t.name in needed]),
    ):
        copies = [type(k).FromString(k.SerializeToString()) for k in kept]
        del field[:]
        field.extend(copies)
    feeds = {i.name: sample.feeds[i.name] for i in graph.input}
    return replace(sample, feeds=feeds)


def _without(sample: Sample, position: int, values: dict[str, Array]) -> Sample:
    """Return the sample with a node's results as inputs instead."""
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    outputs = [n for n in model.graph.node[position].output if n in values]
    ends = {o.name for o in model.graph.output}
    del model.graph.node[position]
    if ends & set(outputs):
        kept = [o for o in model.graph.output if o.name not in outputs]
        kept = [onnx.ValueInfoProto.FromString(k.SerializeToString()) for k in kept]
        del model.graph.output[:]
        model.graph.output.extend(kept)
    model.graph.input.extend(_info(n, values[n]) for n in outputs)
    feeds = {**sample.feeds, **{n: values[n] for n in outputs}}
    return _pruned(replace(sample, model=model, feeds=feeds))


def _smaller(sample: Sample) -> Iterator[Sample]:
    """Yield samples in which an extent is smaller wherever an input or a constant has it."""
    arrays = _arrays(sample)
    extents = sorted({e for a in arrays.values() for e in a.shape if e > 1}, reverse=True)
    for extent in extents:
        for wanted in sorted({1, 2, extent // 2, extent - 1} - {extent, 0}):
            cut = {n: _cut(a, extent, wanted) for n, a in arrays.items()}
            yield _with(sample, cut)


def _cut(array: Array, extent: int, wanted: int) -> Array:
    return array[tuple(slice(wanted) if e == extent else slice(None) for e in array.shape)]


def _simpler(sample: Sample) -> Iterator[Sample]:
    """Yield samples in which one array of floats is all zeros or ones."""
    arrays = _arrays(sample)
    for name, array in arrays.items():
        for number in (0, 1):
            if array.dtype.kind == "f" and not (array == number).all():
                yield _with(sample, {**arrays, name: np.full_like(array, number)})


def _arrays(sample: Sample) -> dict[str, Array]:
    constants = {t.name: numpy_helper.to_array(t) for t in sample.model.graph.initializer}
    return {**constants, **sample.feeds}


def _with(sample: Sample, arrays: dict[str, Array]) -> Sample:
    """Return the sample with other inputs and constants; extents of inputs become fixed."""
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for value in model.graph.input:
        if arrays[value.name].shape != sample.feeds[value.name].shape:
            value.CopyFrom(_info(value.name, arrays[value.name]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return replace(sample, model=model, feeds={n: arrays[n] for n in sample.feeds})
