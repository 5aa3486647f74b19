"""Equations whose operands are all constant become constants."""

from __future__ import annotations

from whet.dtypes import DTYPES
from whet.index import Dim, product
from whet.kernel.expr import all_atoms, walk
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.limits import Budget
from whet.lower.equations import Equations
from whet.lower.outline import dims_in
from whet.lower.uses import sources
from whet.ops.movement import concat_parts

MAX_POINTS = 1 << 25
"""Points at which an equation is evaluated when compiling; the interpreter holds them all."""


class FoldBudget:
    """What all parts of a model together may still spend on constants made here.

    Args:
        budget: of the compilation; its limit on folded bytes holds here too.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._left = self._budget.limits.folded_bytes

    def allows(self, tensor: Tensor) -> bool:
        """Take the bytes of a tensor, unless too few are left: then it stays an equation.

        Raises:
            ResourceError: the compilation's time or memory is used up.
        """
        self._budget.check(f"constant {tensor.name}")
        size = (tensor.size.constant or 0) * DTYPES[tensor.dtype].size
        if size > self._left:
            return False
        self._left -= size
        return True


def fold_equations(equations: Equations, budget: FoldBudget | None = None) -> None:
    """Evaluate, in place, what reads constants and nothing else.

    Equations that read nothing, such as a tensor filled with one number, stay: they are cheaper to
    write than to load.

    Raises:
        ResourceError: the compilation's time or memory is used up.
    """
    outputs = {id(t) for _, t in equations.outputs}
    spend = budget or FoldBudget()
    for tensor in equations.tensors:
        if id(tensor) not in outputs and is_constant(tensor) and spend.allows(tensor):
            tensor.value = evaluate_tensor(tensor, {}, {})
            tensor.definition = None
            tensor.order = ()


def is_constant(tensor: Tensor) -> bool:
    """Whether an equation reads constants alone and is small enough to evaluate."""
    definition = tensor.definition
    if definition is None or concat_parts(tensor) is not None or dims_in(tensor):
        return False
    points = _points(definition)
    return points is not None and points <= MAX_POINTS and reads_constants(definition)


def reads_constants(definition: Definition) -> bool:
    """Whether an equation of known size reads constants, and nothing else."""
    read = sources(definition)
    static = all(a.extent.constant is not None for a in definition.axes)
    constant = bool(read) and all(s.value is not None for s in read)
    return static and constant and not _depends_on_a_run(definition)


def _depends_on_a_run(definition: Definition) -> bool:
    """Whether a size that only a run knows is in an index, a number or a condition."""
    parts = (e for root in definition.expressions() for e in walk(root))
    indices = (p for e in parts for p in e.indices())
    return any(isinstance(atom, Dim) for p in indices for atom in all_atoms(p))


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
