"""A ConvTranspose of quantised operands becomes a Conv and a DepthToSpace, which integers can do.

With stride ``s``, ``o = s q + r`` and ``k = s j + r``: ``y[o] = sum over j of x[q - j] w[k]``, for
each of the ``s`` remainders a convolution of ``J = ceil(K / s)`` taps. The ``s * s`` of them are
filters of one Conv over the image padded by ``J - 1``, DepthToSpace puts their results between each
other, and what lies outside of the result is not computed or cut off. Functions of single elements
that follow are taken of the Conv's result, where they run on registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, owner, replace_nodes, single_user, static_shape
from whet.graph.match import Miss
from whet.passes.quantised import BYTES, Array, Linear8, Maker, as_dequantised, rewrite_all, typed

_END = np.iinfo(np.int64).max
IMAGES = 4
"""Dimensions of images: batch, channels, height, width."""
_SINGLE = frozenset(
    ["Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Gelu"]
)
"""Functions of single elements of their first input; what else they read is one number."""
_KNOWN = frozenset(["kernel_shape", "strides", "pads", "group", "output_padding"])


@dataclass(frozen=True, slots=True)
class Transposed:
    """A ConvTranspose over images that a Conv can do.

    Attributes:
        node: the ConvTranspose.
        w: its weights [C, M / groups, K, K].
        weights: the same, as constant integers.
        bias: its bias as constant numbers, dequantised or not, or ``None``.
        groups: of channels.
        stride: along both axes.
        taps: of each filter of the Conv, along both axes.
        pads: of the Conv, in front of both axes, then behind both.
        cuts: elements to cut off the result, in the same order.
    """

    node: ir.Node
    w: Linear8
    weights: Array
    bias: Linear8 | Array | None
    groups: int
    stride: int
    taps: tuple[int, int]
    pads: tuple[int, ...]
    cuts: tuple[int, ...]


def convolve_transposed(model: ir.Model) -> int:
    """Rewrite every quantised ConvTranspose of the main graph that can be; return how many."""
    return rewrite_all(model, transposed_form, _rewrite)


def transposed_form(node: ir.Node) -> Transposed | Miss:
    """Return how a Conv does the work of a ConvTranspose, or why it stays."""
    if node.domain != "" or node.op_type != "ConvTranspose":
        return Miss(f"{node.op_type} is no ConvTranspose")
    found = _operands(node)
    if isinstance(found, Miss):
        return found
    w, weights = found
    bias, placed = _bias(node), _placed(node, weights)
    if isinstance(bias, Miss):
        return bias
    if isinstance(placed, Miss):
        return placed
    stride, taps, pads, cuts = placed
    groups = _ints(node, "group", [1])[0]
    return Transposed(node, w, weights, bias, groups, stride, taps, pads, cuts)


def _operands(node: ir.Node) -> tuple[Linear8, Array] | Miss:
    """Return the weights, dequantised and as integers, where integers can multiply them."""
    x, w = (as_dequantised(value) for value in node.inputs[:2])
    for linear in (x, w):
        if isinstance(linear, Miss):
            return linear
    assert isinstance(x, Linear8) and isinstance(w, Linear8)
    weights = constant(w.source)
    if weights is None or weights.ndim != IMAGES or w.source.dtype not in BYTES:
        return Miss(f"{w.source.name} is no constant of images in 8 bits")
    if x.source.dtype not in BYTES or not x.whole or not (w.whole or w.axis == 1):
        return Miss(f"the scales of {node.name} are along channels that are summed over")
    return w, weights


def _bias(node: ir.Node) -> Linear8 | Array | Miss | None:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return None
    linear = as_dequantised(given)
    if isinstance(linear, Linear8):
        known = constant(linear.source)
        return linear if known is not None else Miss(f"{given.name} is not constant")
    array = constant(given)
    return array if array is not None else Miss(f"{given.name} is not constant")


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    value = attribute.value
    return [value] if isinstance(value, int) else list(value)


def _placed(
    node: ir.Node, weights: Array
) -> tuple[int, tuple[int, int], tuple[int, ...], tuple[int, ...]] | Miss:
    """Return the stride, the taps, and the pads and cuts that give the result its place."""
    other = {n for n, a in node.attributes.items() if not _is_default(n, a.value)} - _KNOWN
    if other:
        return Miss(f"{node.name} has {', '.join(sorted(other))}")
    strides = _ints(node, "strides", [1, 1])
    if strides[0] != strides[1]:
        return Miss(f"the strides of {node.name} differ")
    stride, extents = strides[0], weights.shape[2:]
    given, extra = _ints(node, "pads", [0] * 4), _ints(node, "output_padding", [0, 0])
    taps = [-(-extent // stride) for extent in extents]
    spare = [stride * taps[k] - extents[k] - extra[k] + given[2 + k] for k in range(2)]
    if min(*given, *spare) < 0:
        return Miss(f"the result of {node.name} is larger than what its filters reach")
    outside = [*given[:2], *spare]
    less = [min(n // stride, taps[k % 2] - 1) for k, n in enumerate(outside)]
    pads = tuple(taps[k % 2] - 1 - n for k, n in enumerate(less))
    cuts = tuple(n - stride * less[k] for k, n in enumerate(outside))
    return stride, (taps[0], taps[1]), pads, cuts


def _is_default(name: str, value: object) -> bool:
    if name == "dilations":
        return isinstance(value, (list, tuple)) and set(value) == {1}
    return name == "auto_pad" and value in ("NOTSET", b"NOTSET", "")


def _rewrite(form: Transposed, names: Names) -> None:
    node = form.node
    make = Maker(owner(node), names, [])
    repeat = form.stride**2
    inputs = [node.inputs[0], _weights(form, make)]
    if form.bias is not None:
        inputs.append(_repeated(form.bias, repeat, f"{node.outputs[0].name}_bias", make))
    lengths = _lengths(form)
    filters = form.weights.shape[1] * form.groups
    whole = (filters * repeat, *lengths)
    value = _image(make, node.outputs[0], whole)
    make.node("Conv", list(inputs), value, group=form.groups, pads=list(form.pads))
    followers = _followers(node)
    for follower in followers:
        attributes = {name: attribute.value for name, attribute in follower.attributes.items()}
        output = _image(make, follower.outputs[0], whole)
        value = make.node(follower.op_type, [value, *follower.inputs[1:]], output, **attributes)
    old = (followers[-1] if followers else node).outputs[0]
    if form.stride > 1:
        apart = (filters, *(None if n is None else n * form.stride for n in lengths))
        output = _image(make, old, apart)
        value = make.node("DepthToSpace", [value], output, blocksize=form.stride, mode="CRD")
    if any(form.cuts):
        value = _cut(form, value, old, make)
    replace_nodes([*reversed(followers), node], make.nodes, [old], [value])


def _followers(node: ir.Node) -> list[ir.Node]:
    """Return the functions of single elements behind a node, which alone read each other."""
    found: list[ir.Node] = []
    while True:
        value = (found[-1] if found else node).outputs[0]
        user = single_user(value)
        if user is None or user.op_type not in _SINGLE or user.domain != "":
            return found
        if user.graph is not node.graph or user.inputs[0] is not value:
            return found
        found.append(user)


def _image(make: Maker, like: ir.Value, lengths: tuple[int | None, ...]) -> ir.Value:
    """Return a new value of one batch, channels, height and width."""
    value = typed(like, make.names.fresh(f"{like.name}_part"), ir.DataType.FLOAT)
    batch = None if like.shape is None else like.shape[0]
    value.shape = ir.Shape([batch, *lengths])
    return value


def _lengths(form: Transposed) -> tuple[int | None, ...]:
    """Return height and width of the Conv's result, where they are known."""
    shape = static_shape(form.node.inputs[0])
    if shape is None:
        return (None, None)
    return tuple(
        shape[2 + k] + form.pads[k] + form.pads[2 + k] - (form.taps[k] - 1) for k in range(2)
    )


def _cut(form: Transposed, value: ir.Value, old: ir.Value, make: Maker) -> ir.Value:
    starts = np.array(form.cuts[:2], np.int64)
    ends = np.array([-n if n else _END for n in form.cuts[2:]], np.int64)
    bounds: list[ir.Value | None] = [
        make.constant(array, f"{value.name}_{name}")
        for name, array in (("starts", starts), ("ends", ends), ("axes", np.array([2, 3])))
    ]
    output = typed(old, make.names.fresh(f"{old.name}_cut"), ir.DataType.FLOAT)
    return make.node("Slice", [value, *bounds], output)


def _weights(form: Transposed, make: Maker) -> ir.Value:
    """Return the dequantised filters [M s s, C / groups, taps, taps] of the Conv.

    Where a filter has no tap stands its zero point.
    """
    w, s = form.weights, form.stride
    groups, inner, outer = form.groups, w.shape[0] // form.groups, w.shape[1]
    zero = np.broadcast_to(form.w.zero, (outer,)).astype(w.dtype)
    spread = np.empty((*w.shape[:2], form.taps[0] * s, form.taps[1] * s), w.dtype)
    spread[...] = zero[None, :, None, None]
    spread[:, :, : w.shape[2], : w.shape[3]] = w
    split = spread.reshape(groups, inner, outer, form.taps[0], s, form.taps[1], s)
    turned = np.flip(split, (3, 5)).transpose(0, 2, 4, 6, 1, 3, 5)
    filters = np.ascontiguousarray(turned.reshape(groups * outer * s * s, inner, *form.taps))
    name = f"{form.w.source.name}_filters"
    source = make.constant(filters, name)
    output = ir.Value(
        name=make.names.fresh(f"{name}_float"),
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(filters.shape),
    )
    along = (form.w.scale, form.w.zero)
    if not form.w.whole:
        along = tuple(np.tile(np.repeat(a, s * s), groups) for a in along)  # type: ignore[assignment]
    return make.dequantised(source, along[0], output, along[1], 0)


def _repeated(bias: Linear8 | Array, count: int, name: str, make: Maker) -> ir.Value:
    """Return a bias for each of the filters that a channel has become."""
    if not isinstance(bias, Linear8):
        return make.constant(np.repeat(bias, count), name)
    array = constant(bias.source)
    assert array is not None, "the bias is constant"
    source = make.constant(np.repeat(array, count), name)
    scale, zero = bias.scale, bias.zero
    if not bias.whole:
        scale, zero = np.repeat(scale, count), np.repeat(zero, count)
    output = ir.Value(
        name=make.names.fresh(f"{name}_float"),
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([array.size * count]),
    )
    return make.dequantised(source, scale, output, zero, 0)
