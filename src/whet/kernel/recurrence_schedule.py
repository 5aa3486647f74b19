"""Default schedules of recurrences: register tiles and unrolling from a cost model."""

from __future__ import annotations

from whet.kernel.schedule import FMA_LATENCY, FMA_PER_CYCLE, LOADS_PER_CYCLE
from whet.target import Target

L2_VECTORS_PER_CYCLE = 1
TILE_OVERHEAD = 40
SUMS = FMA_PER_CYCLE * FMA_LATENCY
MAX_UNROLL = 4
MAX_ROWS = 4  # with more, LLVM loads states ahead on AArch64 and runs out of registers
STRIDE_BYTES = 1024


def choose_recurrence_tile(gates: int, rows: int, cols: int, target: Target) -> tuple[int, int]:
    """Return the rows and vectors of the register tile with the least estimated time."""
    if not gates:
        return 1, 1
    total = -(-cols // target.lanes)
    best: tuple[float, int, int] | None = None
    for vectors in range(1, min(total, -(-SUMS // gates)) + 1):
        for height in range(1, min(rows, MAX_ROWS) + 1):
            # Sums, one state of each row, and weights as they come.
            held = gates * vectors * height + height + 2
            if held > target.registers and (height > 1 or vectors > 1):
                break
            whole, rest = divmod(rows, height)
            cost = whole * _cycles(gates, height, vectors, total, cols)
            cost += _cycles(gates, rest, vectors, total, cols) if rest else 0.0
            if best is None or cost < best[0] * 0.999:
                best = cost, height, vectors
    assert best is not None
    return best[1], best[2]


def choose_recurrence_unroll(gates: int, vectors: int, target: Target) -> int:
    """Return how many depth steps to unroll.

    With few rows the weights stream through the first cache. On Zen 5, a loop that advances by more
    than 1 KB had its lines prefetched too far ahead: 60 GFLOP/s instead of 85 to 105.
    """
    step_bytes = max(gates, 1) * vectors * target.vector_bytes
    return max(1, min(MAX_UNROLL, STRIDE_BYTES // step_bytes))


def _cycles(gates: int, rows: int, vectors: int, total: int, depth: int) -> float:
    """Estimate cycles for one tile of rows and all columns."""
    cycles = 0.0
    widths = [(vectors, total // vectors), (total % vectors, 1 if total % vectors else 0)]
    for wide, count in widths:
        fma = max(gates * wide * rows / FMA_PER_CYCLE, FMA_LATENCY)
        loads = (gates * wide + rows) / LOADS_PER_CYCLE
        streamed = gates * wide / L2_VECTORS_PER_CYCLE
        cycles += count * (depth * max(fma, loads, streamed) + TILE_OVERHEAD)
    return cycles
