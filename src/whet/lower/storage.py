"""Where tensors lie: memory roots, strides, and the addresses of loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np

from whet.dtypes import DTYPES
from whet.index import ZERO, Poly, as_poly, recombine
from whet.kernel.expr import Expr, Load, Read, rewrite_leaves
from whet.kernel.spec import Param
from whet.kernel.tensor import Tensor
from whet.program.records import BufferKind, Content

TYPICAL_DIM = 16
PLAIN = "ND"
_CHANNELS_LAST = MappingProxyType({3: "NLC", 4: "NHWC", 5: "NDHWC"})


class Root(msgspec.Struct, eq=False):
    """One piece of memory; compared by identity.

    Attributes:
        name: the value it mostly holds, or the name of the input or output.
        kind: who owns it.
        dtype: element type.
        size: number of elements.
        make: returns the contents, in the order in which they are stored, if they are constant.
            It is called when weights are packed, so that only one array at a time is in memory.
        content: type, shape and order of what it holds, for reports; none for work memory.
    """

    name: str
    kind: BufferKind
    dtype: str
    size: Poly
    make: Callable[[], np.ndarray] | None = None
    content: Content | None = None

    @property
    def size_bytes(self) -> Poly:
        """Size in bytes."""
        return self.size * DTYPES[self.dtype].size


class Storage(msgspec.Struct, frozen=True):
    """How a tensor lies in its root: element ``i`` is at ``offset + sum(i * strides)``."""

    root: Root
    offset: Poly
    strides: tuple[Poly, ...]


Storages = Mapping[int, Storage]


def packed_strides(shape: Sequence[Poly], order: Sequence[int]) -> tuple[Poly, ...]:
    """Return strides that store a shape without gaps, dimensions in ``order``, outermost first."""
    strides: list[Poly] = [ZERO] * len(shape)
    step = as_poly(1)
    for d in reversed(tuple(order)):
        strides[d] = step
        step = step * shape[d]
    return tuple(strides)


def stored_content(tensor: Tensor, order: Sequence[int] | None = None) -> Content:
    """Return the content of a tensor stored with its dimensions in ``order``, plain by default."""
    plain = tuple(range(tensor.rank))
    last = (0, *range(2, tensor.rank), 1) if tensor.rank in _CHANNELS_LAST else plain
    stored = plain if order is None else tuple(order)
    if stored not in (plain, last):
        alike = (o for o in (plain, last) if _longer(o, tensor) == _longer(stored, tensor))
        stored = next(alike, stored)
    name = _CHANNELS_LAST[tensor.rank] if stored == last != plain else PLAIN
    return Content(tensor.dtype, tuple(tensor.shape[d] for d in stored), name)


def _longer(order: Sequence[int], tensor: Tensor) -> list[int]:
    """Return the dimensions that are not 1: where the others stand makes no difference."""
    return [d for d in order if tensor.shape[d] != 1]


def packed_content(tensor: Tensor, dtype: str) -> Content:
    """Return the content of weights that lie in a kernel's own order."""
    return Content(dtype, tensor.model_shape or tensor.shape, "PACKED")


def row_major(shape: Sequence[Poly]) -> tuple[Poly, ...]:
    """Return the strides of a shape stored with its last dimension running fastest."""
    return packed_strides(shape, range(len(shape)))


def magnitude(p: Poly) -> int:
    """Return a polynomial's value with a typical size for run-time dimensions, to compare sizes."""
    names = {a.name for a in p.atoms if hasattr(a, "name")}
    try:
        return p.evaluate(dict.fromkeys(names, TYPICAL_DIM))
    except TypeError:
        return 0


def address_of(index: Sequence[Poly], storage: Storage) -> Poly:
    """Return the element address of an index."""
    total = storage.offset
    for i, stride in zip(index, storage.strides, strict=True):
        total = total + i * stride
    return recombine(total)


class Params(msgspec.Struct):
    """Collects the roots that a kernel touches and numbers them as its parameters."""

    roots: list[Root] = msgspec.field(default_factory=list)
    written: set[int] = msgspec.field(default_factory=set)

    def number(self, root: Root) -> int:
        """Return the parameter of a root, adding it at first sight."""
        for k, known in enumerate(self.roots):
            if known is root:
                return k
        self.roots.append(root)
        return len(self.roots) - 1

    def write(self, root: Root) -> int:
        """Return the parameter of a root that the kernel writes."""
        number = self.number(root)
        self.written.add(number)
        return number

    def records(self) -> tuple[Param, ...]:
        """Return the parameter list of the kernel."""
        return tuple(Param(r.dtype, k in self.written) for k, r in enumerate(self.roots))


def to_reads(expr: Expr, storages: Storages, params: Params) -> Expr:
    """Replace loads of tensors by reads of kernel parameters."""

    def rewrite(e: Expr) -> Expr:
        if not isinstance(e, Load):
            return e
        storage = storages[id(e.source)]
        return Read(params.number(storage.root), address_of(e.index, storage), e.dtype)

    return rewrite_leaves(expr, rewrite)


def constant_root(tensor: Tensor) -> Root:
    """Return the root of a constant tensor."""
    value = tensor.value
    assert value is not None
    return Root(
        tensor.name,
        BufferKind.CONSTANT,
        tensor.dtype,
        tensor.size,
        lambda: value,
        packed_content(tensor, tensor.dtype) if tensor.model_shape else stored_content(tensor),
    )
