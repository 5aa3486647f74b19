"""Equations whose operands are all constant become constants."""

from __future__ import annotations

from whet.index import product
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.lower.equations import Equations
from whet.lower.uses import sources
from whet.ops.movement import concat_parts

MAX_POINTS = 1 << 25
"""Points at which an equation is evaluated when compiling; the interpreter holds them all."""


def fold_equations(equations: Equations) -> None:
    """Evaluate, in place, what reads constants and nothing else.

    Equations that read nothing, such as a tensor filled with one number, stay: they are cheaper to
    write than to load.
    """
    outputs = {id(t) for _, t in equations.outputs}
    for tensor in equations.tensors:
        if id(tensor) not in outputs and is_constant(tensor):
            tensor.value = evaluate_tensor(tensor, {}, {})
            tensor.definition = None
            tensor.order = ()


def is_constant(tensor: Tensor) -> bool:
    """Whether an equation reads constants alone and is small enough to evaluate."""
    definition = tensor.definition
    if definition is None or concat_parts(tensor) is not None:
        return False
    points = _points(definition)
    return points is not None and points <= MAX_POINTS and reads_constants(definition)


def reads_constants(definition: Definition) -> bool:
    """Whether an equation of known size reads constants, and nothing else."""
    read = sources(definition)
    static = all(a.extent.constant is not None for a in definition.axes)
    return static and bool(read) and all(s.value is not None for s in read)


def _points(definition: Definition) -> int | None:
    axes = definition.axes
    anchor = definition.anchor
    if isinstance(anchor, Steps):
        axes = (*axes, *(a for step in anchor.steps for a in step.axes))
    elif isinstance(anchor, Product):
        axes = (*axes, *anchor.taps, anchor.depth)
    elif anchor is not None:
        return None
    return product(a.extent for a in dict.fromkeys(axes)).constant
