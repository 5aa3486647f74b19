"""``attach_preprocess``: standard nodes in front of a model's input, which the compiler fuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.errors import OptionError, ShapeError, nearest
from whet.frontend.preprocess.dynamic import Canvas, dynamic_values
from whet.frontend.preprocess.pixels import pixel_nodes
from whet.frontend.preprocess.records import FORMATS, DynamicPreprocess, Placed, Preprocess, Step
from whet.graph.edit import Names
from whet.graph.infer import infer_shapes
from whet.program.aipp_block import BLOCK, HEAD, IMAGE, BlockUse

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class Chain:
    """Nodes that are built one behind the other, not yet in the graph.

    Args:
        names: source of unused names.
        base: how all of them start.
    """

    def __init__(self, names: Names, base: str) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._names = names
        self._base = base

    def op(
        self, op_type: str, *inputs: ir.Value | np.ndarray[Any, Any] | None, **attributes: Any
    ) -> ir.Value:
        """Add a node with one output; arrays become constants, ``None`` leaves an input out."""
        values = [self._constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        name = self._names.fresh(f"{self._base}_{op_type}")
        result = ir.Value(name=self._names.fresh(f"{name}_out"))
        self.nodes.append(ir.node(op_type, values, attributes, outputs=[result], name=name))
        return result

    def _constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        tensor = ir.Tensor(array)
        value = ir.Value(
            name=self._names.fresh(f"{self._base}_constant"),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self.constants.append(value)
        return value


def attach_preprocess(model: ir.Model, steps: Sequence[Step]) -> tuple[BlockUse, ...]:
    """Let inputs of a canonical model take pictures as bytes, in place.

    Each input keeps its name; its type becomes uint8 and its shape that of the picture: batch,
    height, width and bytes of a pixel, or batch, rows and columns where colours lie apart. Where
    steps are dynamic, it becomes a row of bytes, and an input for their block is added.

    Returns:
        The blocks that the model takes, and what they have to fit.

    Raises:
        OptionError: an input is unknown, given twice, or no image.
        ShapeError: sizes of picture and model do not go together.
    """
    taken: set[str] = set()
    uses: list[BlockUse] = []
    names = Names(model)
    for step in steps:
        value = _find_input(model, step)
        if (value.name or "") in taken:
            raise OptionError(
                "two descriptions of one input", where=f"input {value.name!r}", hint="give one"
            )
        taken.add(value.name or "")
        if isinstance(step, DynamicPreprocess):
            uses.append(_attach_dynamic(model, value, step, names))
        else:
            _attach(model, value, step, names)
    if steps:
        infer_shapes(model)
    return tuple(uses)


def _find_input(model: ir.Model, step: Step) -> ir.Value:
    inputs = {value.name or "": value for value in model.graph.inputs}
    if step.input in inputs:
        return inputs[step.input]
    if step.input.isdigit() and int(step.input) < len(inputs):
        return model.graph.inputs[int(step.input)]
    raise OptionError(
        f"the model has no input {step.input!r}",
        where="preprocess",
        hint=nearest(step.input, inputs),
    )


def _attach(model: ir.Model, value: ir.Value, step: Preprocess, names: Names) -> None:
    where = f"input {value.name!r}"
    placed = place(value, step)
    assert value.shape is not None and value.dtype is not None
    picture = _bytes(value.name, [value.shape[0], *_picture_shape(placed, where)])
    chain = Chain(names, f"{value.name}_preprocess")
    result = _values(chain, pixel_nodes(chain, picture, placed), placed, value.dtype)
    _insert(model, value, picture, result, chain)


def _attach_dynamic(
    model: ir.Model, value: ir.Value, step: DynamicPreprocess, names: Names
) -> BlockUse:
    where = f"input {value.name!r}"
    _check_images(value, where)
    assert value.shape is not None and value.dtype is not None
    layout = next((x for x in ("NCHW", "NHWC") if value.shape[x.index("C")] in (1, 3)), None)
    dims = [value.shape[(layout or "NCHW").index(axis)] for axis in "NCHW"]
    sizes = [size for size in dims if isinstance(size, int)]
    if layout is None or len(sizes) < 4:
        raise ShapeError(
            f"dynamic AIPP needs 1 or 3 channels and known sizes, the shape is {value.shape}",
            where=where,
            hint="fix them: --shape",
        )
    batch, channels, height, width = sizes
    place = list(model.graph.inputs).index(value)
    use = BlockUse(
        block=f"{BLOCK}_{place}" if place else BLOCK, picture=value.name or "",
        bytes=step.source_bytes, batch=batch, channels=channels, height=height, width=width,
    )  # fmt: skip
    if use.block in {other.name for other in model.graph.inputs}:
        raise OptionError(f"the model has an input {use.block!r}", where=where, hint="rename it")
    pictures = _bytes(value.name, [step.source_bytes])
    block = _bytes(use.block, [HEAD.itemsize + batch * IMAGE.itemsize])
    chain = Chain(names, f"{value.name}_preprocess")
    result = dynamic_values(chain, pictures, block, Canvas(use, layout), value.dtype)
    _insert(model, value, pictures, result, chain)
    model.graph.inputs.append(block)
    return use


def _bytes(name: str | None, shape: Sequence[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(shape))


def _insert(
    model: ir.Model, value: ir.Value, picture: ir.Value, result: ir.Value, chain: Chain
) -> None:
    """Put the nodes of a chain in front of a graph, in place of an input."""
    if value.is_graph_output():
        raise OptionError(
            "the input is an output too",
            where=f"input {value.name!r}",
            hint="put an Identity node between them",
        )
    graph = model.graph
    value.replace_all_uses_with(result)
    graph.inputs[list(graph.inputs).index(value)] = picture
    for constant in chain.constants:
        graph.register_initializer(constant)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(chain.nodes)
    else:
        graph.insert_before(first, chain.nodes)


def place(value: ir.Value, step: Preprocess) -> Placed:
    """Return the steps with sizes, from what they say and what the model's input is.

    Raises:
        OptionError: the input is no image of floats.
        ShapeError: sizes do not go together.
    """
    where = f"input {value.name!r}"
    _check_images(value, where)
    assert value.shape is not None
    layout = _layout(value.shape, step, where)
    dims = [value.shape[layout.index(axis)] for axis in "HW"]
    size = [dim if isinstance(dim, int) else dim.value or "" for dim in dims]
    top, bottom, left, right = step.padding or (0, 0, 0, 0)
    inner = [_less(size[0], top + bottom, where), _less(size[1], left + right, where)]
    source: Sequence[int | str]
    if step.resize:
        _agree(inner, step.resize, "resized picture", where)
        assert step.source, "the record asks for it"
        source = step.source
    elif step.crop:
        _agree(inner, step.crop[2:], "crop", where)
        least = [step.crop[0] + step.crop[2], step.crop[1] + step.crop[3]]
        source = step.source or (least[0], least[1])
    else:
        _agree(inner, step.source or inner, "picture", where)
        source = step.source or (inner[0], inner[1])
    channels = value.shape[layout.index("C")]
    assert isinstance(channels, int)
    return Placed(step, (source[0], source[1]), layout, channels)


def _check_images(value: ir.Value, where: str) -> None:
    if value.shape is None or len(value.shape) != 4 or value.dtype not in _FLOATS:
        raise OptionError(
            "the input is not a batch of images in floating point",
            where=where,
            hint="it needs a shape such as N×3×224×224",
        )


def _layout(shape: ir.Shape, step: Preprocess, where: str) -> str:
    made = len(FORMATS[step.pixels].order)
    usable = (1, 3) if step.colours else (3 if made > 1 else 1,)
    for layout in ("NCHW", "NHWC"):
        if shape[layout.index("C")] in usable:
            return layout
    raise ShapeError(
        f"{step.pixels} gives {usable[-1]} channels, and the model's shape is {shape}",
        where=where,
        hint="choose another format, or csc_switch (colours) for a model of one channel",
    )


def _less(size: int | str, padding: int, where: str) -> int | str:
    if isinstance(size, int):
        if size <= padding:
            raise ShapeError(
                f"padding of {padding} leaves nothing of {size}", where=where, hint="pad less"
            )
        return size - padding
    if padding:
        raise ShapeError(
            f"{size!r} is open, so padding is not possible", where=where, hint="fix it: --shape"
        )
    return size


def _agree(needs: Sequence[int | str], has: Sequence[int | str], what: str, where: str) -> None:
    if any(isinstance(n, int) and n != h for n, h in zip(needs, has, strict=True)):
        raise ShapeError(
            f"the {what} is {has[0]}×{has[1]}, the model needs {needs[0]}×{needs[1]} of it",
            where=where,
            hint="crop + padding must give the model's height and width",
        )
    if any(isinstance(n, str) and n != h for n, h in zip(needs, has, strict=True)):
        raise ShapeError(
            f"the model's size {needs[0]}×{needs[1]} is open, the {what} is {has[0]}×{has[1]}",
            where=where,
            hint="fix the model's height and width: --shape",
        )


def _picture_shape(placed: Placed, where: str) -> list[int | str]:
    form, (height, width) = FORMATS[placed.steps.pixels], placed.source
    if form.columns == 1:
        return [height, width, form.planes]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ShapeError(
            f"{placed.steps.pixels} needs known sizes", where=where, hint="fix them: --shape"
        )
    rows = 2 if form.rows == 3 else 1
    if width % 2 or height % rows:
        raise ShapeError(
            f"{placed.steps.pixels} needs even sizes, not {height}×{width}",
            where=where,
            hint="give the size of the whole picture and a crop",
        )
    return [height, width, 2] if form.planes else [height * form.rows // 2, width]


def _values(chain: Chain, pixels: ir.Value, placed: Placed, dtype: ir.DataType) -> ir.Value:
    """Turn pixels, N×H×W×C in integers, into what the model takes."""
    steps, channels = placed.steps, placed.channels
    if placed.layout == "NCHW":
        pixels = chain.op("Transpose", pixels, perm=[0, 3, 1, 2])
    work = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    result = chain.op("Cast", pixels, to=int(work))
    shape = (channels, 1, 1) if placed.layout == "NCHW" else (channels,)
    for op_type, numbers, neutral in (
        ("Sub", steps.mean, 0.0), ("Sub", steps.least, 0.0), ("Mul", steps.scale, 1.0),
    ):  # fmt: skip
        if any(number != neutral for number in numbers[:channels]):
            array = np.array(numbers[:channels], work.numpy()).reshape(shape)
            result = chain.op(op_type, result, array)
    if dtype != work:
        result = chain.op("Cast", result, to=int(dtype))
    if steps.padding:
        top, bottom, left, right = steps.padding
        axes = [placed.layout.index("H"), placed.layout.index("W")]
        result = chain.op(
            "Pad", result, np.array([top, left, bottom, right], np.int64),
            np.array(steps.padding_value, dtype.numpy()), np.array(axes, np.int64),
        )  # fmt: skip
    return result
