"""The kernel kinds: how each is written, split into chunks, and how much scratch it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from whet.codegen.kinds.attention_function import write_attention
from whet.codegen.kinds.attention_keys import attention_chunks, attention_scratch
from whet.codegen.kinds.block_product import (
    block_product_chunks,
    block_product_scratch,
    write_block_product,
)
from whet.codegen.kinds.chain import chain_chunks, chain_scratch, write_chain
from whet.codegen.kinds.contraction import (
    contraction_chunks,
    contraction_scratch,
    write_contraction,
)
from whet.codegen.kinds.dequantized_product import (
    dequantized_chunks,
    dequantized_scratch,
    write_dequantized,
)
from whet.codegen.kinds.filter import filter_chunks, write_filter
from whet.codegen.kinds.integer_winograd import (
    integer_winograd_chunks,
    integer_winograd_scratch,
    write_integer_winograd,
)
from whet.codegen.kinds.nest import nest_chunks, write_nest
from whet.codegen.kinds.paged import paged_chunks, paged_scratch, write_paged
from whet.codegen.kinds.pooled import pooled_chunks, pooled_scratch, write_pooled
from whet.codegen.kinds.radix_sort import radix_sort_chunks, write_radix_sort
from whet.codegen.kinds.recurrence import recurrence_chunks, write_recurrence
from whet.codegen.kinds.row_quantization import row_quantization_chunks, write_row_quantization
from whet.codegen.kinds.scan import scan_chunks, write_scan
from whet.codegen.kinds.scatter import scatter_chunks, write_scatter
from whet.codegen.kinds.sort import sort_chunks, write_sort
from whet.codegen.kinds.winograd_function import (
    winograd_chunks,
    winograd_scratch,
    write_winograd,
)
from whet.codegen.writing.builder import Module
from whet.index import Poly
from whet.kernel.blocks import BlockProduct, RowQuantization
from whet.kernel.chain import Chain
from whet.kernel.dequantized import DequantizedProduct
from whet.kernel.filter import Filter
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.paged import PagedAttention
from whet.kernel.pooled import Pooled
from whet.kernel.recurrence import Recurrence
from whet.kernel.scan import Scan
from whet.kernel.scatter import Scatter
from whet.kernel.sort import RadixSort, Sort
from whet.kernel.spec import Attention, Contraction, Kernel, Nest, Winograd
from whet.target import Target


class KernelKind(msgspec.Struct, frozen=True):
    """What code generation does with one kind of kernel.

    Attributes:
        write: writes the function: module, symbol, kernel, names of run-time dimensions, target.
        chunks: number of chunks, given the kernel and the lanes of a vector.
        scratch: bytes of scratch for each thread, given the same.
    """

    write: Callable[[Module, str, Any, tuple[str, ...], Target], None]
    chunks: Callable[[Any, int], Poly]
    scratch: Callable[[Any, int], int]


def _no_scratch(kernel: Kernel, lanes: int) -> int:
    return 0


KINDS: Mapping[type, KernelKind] = MappingProxyType(
    {
        Nest: KernelKind(write_nest, nest_chunks, _no_scratch),
        Contraction: KernelKind(write_contraction, contraction_chunks, contraction_scratch),
        Chain: KernelKind(write_chain, chain_chunks, chain_scratch),
        Pooled: KernelKind(write_pooled, pooled_chunks, pooled_scratch),
        Attention: KernelKind(write_attention, attention_chunks, attention_scratch),
        Recurrence: KernelKind(write_recurrence, recurrence_chunks, _no_scratch),
        Winograd: KernelKind(write_winograd, winograd_chunks, winograd_scratch),
        IntegerWinograd: KernelKind(
            write_integer_winograd, integer_winograd_chunks, integer_winograd_scratch
        ),
        Scan: KernelKind(write_scan, scan_chunks, _no_scratch),
        Scatter: KernelKind(write_scatter, scatter_chunks, _no_scratch),
        Sort: KernelKind(write_sort, sort_chunks, _no_scratch),
        RadixSort: KernelKind(write_radix_sort, radix_sort_chunks, _no_scratch),
        Filter: KernelKind(write_filter, filter_chunks, _no_scratch),
        PagedAttention: KernelKind(write_paged, paged_chunks, paged_scratch),
        RowQuantization: KernelKind(write_row_quantization, row_quantization_chunks, _no_scratch),
        BlockProduct: KernelKind(write_block_product, block_product_chunks, block_product_scratch),
        DequantizedProduct: KernelKind(write_dequantized, dequantized_chunks, dequantized_scratch),
    }
)


def kernel_text(name: str, kernel: Kernel, dims: tuple[str, ...], target: Target) -> str:
    """Return the LLVM IR of a kernel under a symbol name."""
    module = Module()
    KINDS[type(kernel)].write(module, name, kernel, dims, target)
    return module.text()
