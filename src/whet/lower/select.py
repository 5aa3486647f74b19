"""Choosing a kernel for every tensor that is materialised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from whet.index import Poly, product, var
from whet.kernel.blocks import BlockSum, QuantizedRows
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.filter import Kept
from whet.kernel.integer_winograd_schedule import Plan
from whet.kernel.paged import PagedAttend
from whet.kernel.recurrence import Recur
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.schedules import Chooser, Schedules
from whet.kernel.sort import Sorted
from whet.kernel.spec import PAIR, Kernel, Nest
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor, axes_for
from whet.lower.attention import build_attention
from whet.lower.blocks import (
    build_block_product,
    build_dequantized_product,
    build_row_quantization,
)
from whet.lower.contractions import build_contraction
from whet.lower.dots import dot_size
from whet.lower.fuse import work
from whet.lower.integer_winograd import build_integer_winograd, is_contiguous
from whet.lower.layout import Layout
from whet.lower.nests import build_nest
from whet.lower.paged import build_paged
from whet.lower.recurrences import build_recurrence, flops_of_recurrence
from whet.lower.scans import build_scan
from whet.lower.scatters import build_scatter
from whet.lower.sorts import build_filter, build_sort
from whet.lower.storage import Params, Root, Storage, Storages
from whet.lower.winograd import build_winograd, multiplies_less
from whet.ops.movement import concat_parts
from whet.target import Target

WINOGRAD_LEVEL = 3
PAIRS_GAIN = 2.5
"""How many multiply-adds a product of pairs is worth, and the transforms that it does without."""

Build = Callable[[Definition, Storage, Storages, Target, int], tuple[Kernel, Params]]
"""Builds the kernel of a definition, with chunks for a number of threads, and its parameters."""

BUILDERS: Mapping[type, Build] = MappingProxyType(
    {
        type(None): build_nest,
        Steps: build_nest,
        Attend: build_attention,
        Recur: build_recurrence,
        Prefix: build_scan,
        Updates: build_scatter,
        Sorted: build_sort,
        Kept: build_filter,
        PagedAttend: build_paged,
        QuantizedRows: build_row_quantization,
        BlockSum: build_block_product,
        DequantizedSum: build_dequantized_product,
    }
)
"""The file that makes a kernel of each anchor but products, whose schedules may be tuned."""


class KernelCall(msgspec.Struct, frozen=True):
    """A kernel and what it runs on.

    Attributes:
        kernel: specification.
        roots: memory of each parameter.
        nodes: names of the model's nodes that it computes.
        ops: their operator types.
        flops: floating-point operations.
    """

    kernel: Kernel
    roots: tuple[Root, ...]
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    flops: Poly


class Selection(msgspec.Struct, frozen=True):
    """What the choice of kernels depends on.

    Attributes:
        layout: storage of all tensors.
        target: processor.
        schedules: schedules of products, and the threads that chunks are cut for.
        level: optimisation level; from 3 on, algorithms may reorder floating-point sums.
        filtered: how Winograd's algorithm computes products of bytes, by their tensors' ids.
    """

    layout: Layout
    target: Target
    schedules: Schedules
    level: int
    filtered: Mapping[int, Plan]

    def stays(self, tensor: Tensor) -> bool:
        """Tell whether a product needs no copies and no other weights."""
        definition = tensor.definition
        if definition is None or not isinstance(definition.anchor, Product):
            return False
        return definition.anchor.dot is not None or self._plan(tensor, definition) is not None

    def _plan(self, tensor: Tensor, definition: Definition) -> Plan | None:
        plan = self.filtered.get(id(tensor))
        contiguous = plan is not None and is_contiguous(definition, self.layout.storages)
        return plan if contiguous else None

    def dot_size(self, tensor: Tensor, anchor: Product) -> int | None:
        """Return how many depth values of a product are to share a lane; see ``dots.dot_size``.

        Winograd's algorithm, in float32, goes before pairs where it spares more than they do.
        """
        size = dot_size(anchor, self.target)
        if size != PAIR or self.level < WINOGRAD_LEVEL or tensor.definition is None:
            return size
        choose = Chooser(self.schedules, self.target, tensor.nodes)
        fast = multiplies_less(tensor.definition, self.layout.storages, choose, PAIRS_GAIN)
        return None if fast else size

    def calls(self, tensor: Tensor) -> list[KernelCall]:
        """Return the kernels that compute a tensor: none for inputs, constants and no elements."""
        if tensor.definition is None or tensor.size == 0:
            return []
        if concat_parts(tensor) is not None:
            parts = self.layout.copied_parts.get(id(tensor), [])
            return [self._call(tensor, _copy_of(t), place) for t, place in parts if t.size != 0]
        return [self._call(tensor, tensor.definition, self.layout.storages[id(tensor)])]

    def _call(self, tensor: Tensor, definition: Definition, storage: Storage) -> KernelCall:
        if isinstance(definition.anchor, Product):
            kernel, params = self._product(tensor, definition, storage)
        else:
            kernel, params = self._kernel(definition, storage)
        roots = tuple(params.roots)
        return KernelCall(kernel, roots, tensor.nodes, tensor.ops, flops_of(definition))

    def _kernel(self, definition: Definition, storage: Storage) -> tuple[Kernel, Params]:
        build = BUILDERS[type(definition.anchor)]
        threads = self.schedules.threads
        return build(definition, storage, self.layout.storages, self.target, threads)

    def _product(
        self, tensor: Tensor, definition: Definition, storage: Storage
    ) -> tuple[Kernel, Params]:
        storages = self.layout.storages
        choose = Chooser(self.schedules, self.target, tensor.nodes)
        plan = self._plan(tensor, definition)
        if plan is not None:
            return build_integer_winograd(definition, storage, storages, self.target, plan)
        if self.level >= WINOGRAD_LEVEL:
            fast = build_winograd(definition, storage, storages, self.target, choose)
            if fast is not None:
                return fast
        return build_contraction(definition, storage, storages, self.target, choose)


def _copy_of(part: Tensor) -> Definition:
    axes = axes_for(part.shape)
    return Definition(axes, part.at(*(var(a) for a in axes)))


def flops_of(definition: Definition) -> Poly:
    """Return the floating-point operations of a definition: those of the model, no added zeros."""
    points = product(a.extent for a in definition.axes)
    anchor = definition.anchor
    if isinstance(anchor, Product):
        depth = anchor.depth.extent if anchor.dot is None else anchor.dot.extent
        return points * product(t.extent for t in anchor.taps) * (depth // anchor.merged) * 2
    if isinstance(anchor, Attend):
        rows = product(a.extent for a in anchor.rows) * anchor.key.extent * 2
        return rows * (anchor.depth.extent + anchor.col.extent)
    if isinstance(anchor, QuantizedRows):
        return _flops_of_rows(anchor)
    if isinstance(anchor, BlockSum | DequantizedSum):
        return points * anchor.depth * 2
    if isinstance(anchor, Recur):
        return flops_of_recurrence(anchor)
    total = points * work(definition.body)
    for step in anchor.steps if isinstance(anchor, Steps) else ():
        kept = product(a.extent for a in definition.axes if step.body.depends_on(a))
        total = total + kept * product(a.extent for a in step.axes) * (work(step.body) + 1)
    return total


def _flops_of_rows(anchor: QuantizedRows) -> Poly:
    """Return the operations that make the values of rows in blocks."""
    each = work(anchor.x) + sum(work(step.body) + 1 for step in anchor.steps)
    if anchor.product is not None:
        each += 2 * anchor.product.depth
    return anchor.row.extent * anchor.depth.extent * each


def kernel_kind(kernel: Kernel) -> str:
    """Return a short word for what a kernel is."""
    if isinstance(kernel, Nest):
        return "reduction" if kernel.steps else "map"
    return type(kernel).__name__.lower()
