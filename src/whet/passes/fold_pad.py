"""Folding of ``Pad`` into the padding of the convolution or pooling behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import begin_rewrite, constant, inherit_sources, ints, rank, single_user
from whet.graph.match import Miss


def fold_pad(model: ir.Model) -> int:
    """Fold every ``Pad`` that its only reader can do itself; return how many."""
    count = 0
    for pad in list(model.graph):
        if pad.op_type != "Pad" or pad.domain != "":
            continue
        found = foldable(pad)
        if isinstance(found, Miss):
            continue
        reader, pads = found
        begin_rewrite(model.graph)
        inherit_sources(reader, [pad, reader])
        reader.replace_input_with(0, pad.inputs[0])
        reader.attributes["pads"] = ir.AttrInt64s("pads", pads)
        reader.attributes.pop("auto_pad", None)  # VALID would say that there are none
        model.graph.remove(pad, safe=True)
        count += 1
    return count


def foldable(pad: ir.Node) -> tuple[ir.Node, tuple[int, ...]] | Miss:
    """Return the reader of a ``Pad`` and its new pads, or why they stay apart."""
    reader = single_user(pad.outputs[0])
    if reader is None or reader.inputs[0] is not pad.outputs[0]:
        return Miss("the padded tensor is not read by exactly one node, as its data")
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return Miss(f"the mode is {mode.as_string()}")
    fault = _reader_fault(pad, reader)
    if fault is not None:
        return fault
    spatial = _spatial_pads(pad)
    if isinstance(spatial, Miss):
        return spatial
    own = None if _auto(reader) == "VALID" else reader.attributes.get("pads")
    added = (0,) * len(spatial) if own is None else tuple(own.as_ints())
    return reader, tuple(a + b for a, b in zip(spatial, added, strict=True))


def _reader_fault(pad: ir.Node, reader: ir.Node) -> Miss | None:
    if _auto(reader) not in ("NOTSET", "VALID"):
        return Miss(f"{reader.op_type} pads automatically")
    number = _value(pad)
    if reader.op_type == "Conv":
        return None if number == 0 else Miss(f"Conv pads with 0, not {number}")
    if reader.op_type == "AveragePool":
        return _average_fault(reader, number)
    if reader.op_type == "MaxPool":
        return _maximum_fault(reader, number)
    return Miss(f"{reader.op_type} has no padding")


def _auto(reader: ir.Node) -> str:
    given = reader.attributes.get("auto_pad")
    return "NOTSET" if given is None else given.as_string()


def _average_fault(reader: ir.Node, number: float | None) -> Miss | None:
    counted = reader.attributes.get("count_include_pad")
    ceil = reader.attributes.get("ceil_mode")
    if number != 0 or counted is None or not counted.as_int():
        return Miss("AveragePool does not count padded zeros")
    return Miss("AveragePool rounds up") if ceil is not None and ceil.as_int() else None


def _maximum_fault(reader: ir.Node, number: float | None) -> Miss | None:
    if number != -np.inf:
        return Miss(f"MaxPool pads with -inf, not {number}")
    if len(reader.outputs) > 1:
        return Miss("MaxPool tells places in the padded tensor")
    ceil = reader.attributes.get("ceil_mode")  # no window begins in a border, but in what was added
    return Miss("MaxPool rounds up") if ceil is not None and ceil.as_int() else None


def _value(pad: ir.Node) -> float | None:
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None:
        return 0.0
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def _spatial_pads(pad: ir.Node) -> tuple[int, ...] | Miss:
    dims, pads = rank(pad.inputs[0]), ints(pad.inputs[1])
    if dims is None or pads is None or dims < 3:
        return Miss("the pads or the rank are unknown")
    axes = ints(pad.inputs[3]) if len(pad.inputs) > 3 and pad.inputs[3] is not None else None
    if len(pad.inputs) > 3 and pad.inputs[3] is not None and axes is None:
        return Miss("the padded axes are unknown")
    order = tuple(range(dims)) if axes is None else tuple(a % dims for a in axes)
    full = [0] * (2 * dims)
    for index, axis in enumerate(order):
        full[axis], full[axis + dims] = pads[index], pads[index + len(order)]
    if any(p < 0 for p in full):
        return Miss("something is cropped")
    if any(full[axis] or full[axis + dims] for axis in (0, 1)):
        return Miss("batch or channels are padded")
    return tuple(full[2:dims] + full[dims + 2 :])
