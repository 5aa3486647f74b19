"""Binding of input shapes: integers fix a dim, strings rename a symbolic one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from whet.errors import OptionError, ShapeError, nearest

Dim = int | str

MAX_DIM = 1 << 40


def bind_shapes(model: ir.Model, shapes: Mapping[str, tuple[Dim, ...]]) -> None:
    """Give inputs the shapes that the caller wants, in place.

    A symbolic dim that one input fixes is fixed in every other input and value that names it.

    Raises:
        OptionError: an input is unknown.
        ShapeError: a rank or a fixed dim differs, or one symbol gets two values.
    """
    inputs = {v.name: v for v in model.graph.inputs if v.name}
    bindings: dict[str, Dim] = {}
    unnamed: dict[str, dict[int, Dim]] = {}
    if not isinstance(shapes, Mapping):
        raise OptionError(
            f"shapes is a {type(shapes).__name__}, not a mapping",
            where="shapes",
            hint='give a shape for each name: {"input": (1, 3, 224, 224)}',
        )
    for name, shape in shapes.items():
        if name not in inputs:
            raise OptionError(
                f"the model has no input {name!r}", where="shapes", hint=nearest(name, inputs)
            )
        _bind_input(inputs[name], shape, bindings, unnamed.setdefault(name, {}))
    for value in model.graph.inputs:
        own = unnamed.get(value.name or "", {})
        if value.shape is not None:
            dims = [own.get(i, d) for i, d in enumerate(value.shape)]
            value.shape = ir.Shape([_substituted(d, bindings) for d in dims])
    if bindings:
        _substitute_all(model, bindings)
    _name_open_dims(model)


def _name_open_dims(model: ir.Model) -> None:
    """Name the open dims of inputs that have no name; some exporters write -1 for them."""
    for value in model.graph.inputs:
        if isinstance(value.type, ir.SequenceType | ir.OptionalType):
            continue
        if value.shape is None:
            raise ShapeError(
                "the shape is unknown",
                where=f"input {value.name!r}",
                hint=f'give it: shapes={{"{value.name}": (1, 3, 224, 224)}}, names for open dims',
            )
        value.shape = ir.Shape(
            [f"{value.name}_{axis}" if _is_open(d) else d for axis, d in enumerate(value.shape)]
        )


def _is_open(dim: int | ir.SymbolicDim) -> bool:
    return dim < 0 if isinstance(dim, int) else dim.value is None


def _bind_input(
    value: ir.Value,
    shape: tuple[Dim, ...],
    bindings: dict[str, Dim],
    unnamed: dict[int, Dim],
) -> None:
    where = f"input {value.name!r}"
    _check_shape(shape, where)
    if value.shape is None:
        value.shape = ir.Shape(shape)
        return
    if len(shape) != len(value.shape):
        raise ShapeError(
            f"the shape {shape} has rank {len(shape)}, the model has {_text(value.shape)}",
            where=where,
            hint="give one dim for each of the model's",
        )
    for axis, (wanted, has) in enumerate(zip(shape, value.shape, strict=True)):
        if isinstance(has, int) and has >= 0:
            if wanted != has:
                raise ShapeError(
                    f"dim {axis} is fixed to {has} in the model, not {wanted!r}",
                    where=where,
                    hint="export the model with a dynamic axis to change it",
                )
        elif isinstance(has, int) or has.value is None:
            unnamed[axis] = wanted
        else:
            _bind_symbol(has.value, wanted, bindings, where)


def _check_shape(shape: tuple[Dim, ...], where: str) -> None:
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ShapeError(
            f"{shape!r} is not a shape", where=where, hint="give a tuple of integers and names"
        )
    for wanted in shape:
        if isinstance(wanted, bool) or not isinstance(wanted, (int, str)) or wanted in ("", -1):
            raise ShapeError(
                f"{wanted!r} is not a dim", where=where, hint="give an integer or a name"
            )
        if isinstance(wanted, int) and wanted < 0:
            raise ShapeError(f"the dim {wanted} is negative", where=where, hint="give 0 or more")
        if isinstance(wanted, int) and wanted > MAX_DIM:
            raise ShapeError(f"the dim {wanted} is too large", where=where, hint="give a real one")


def _bind_symbol(symbol: str, wanted: Dim, bindings: dict[str, Dim], where: str) -> None:
    known = bindings.setdefault(symbol, wanted)
    if known != wanted:
        raise ShapeError(
            f"the dim {symbol!r} is {wanted!r} here and {known!r} in another place",
            where=where,
            hint="dims of the same name must be equal",
        )


def _substituted(
    dim: int | str | ir.SymbolicDim, bindings: Mapping[str, Dim]
) -> int | str | ir.SymbolicDim:
    if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
        return dim
    if dim.value in bindings:
        return bindings[dim.value]
    if not dim.value.isidentifier() and not any(c in dim.value for c in "+-*/( "):
        return dim
    known = {k: v for k, v in bindings.items() if isinstance(v, int) and k.isidentifier()}
    if not known or not any(k in dim.value for k in known):
        return dim
    return dim.evaluate(known)


def _substitute_all(model: ir.Model, bindings: Mapping[str, Dim]) -> None:
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                if value.shape is not None and value.shape.is_dynamic():
                    value.shape = ir.Shape([_substituted(d, bindings) for d in value.shape])


def _text(shape: ir.Shape) -> str:
    return "(" + ", ".join(str(d) if isinstance(d, int) else d.value or "?" for d in shape) + ")"
