"""The function of an attention, on floats or on 8-bit integers."""

from __future__ import annotations

from whet.codegen.kinds.attention import AttentionWriter
from whet.codegen.kinds.attention_integers import IntegerWriter
from whet.codegen.kinds.attention_keys import Layout
from whet.codegen.kinds.kernel_function import accesses_of, frame_of, open_function
from whet.codegen.writing.builder import Module
from whet.codegen.writing.dot_product import dot_product
from whet.codegen.writing.in_turn import chains_together
from whet.kernel.spec import Attention
from whet.target import Target


def write_attention(
    module: Module, name: str, kernel: Attention, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of an attention."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot
    shares = [] if kernel.integers is None else [kernel.integers.share]
    accesses = accesses_of([kernel.q, kernel.k, kernel.v, kernel.score, *shares], kernel.stores)
    frame = frame_of(fn, kernel.params, accesses)
    layout, together = Layout(kernel, target.lanes), chains_together(target)
    writer = AttentionWriter(kernel, fn, layout, target.lane_fma, together)
    if kernel.integers is not None:
        dot = dot_product(target)
        writer = IntegerWriter(kernel, fn, layout, target.lane_fma, together, dot)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()
