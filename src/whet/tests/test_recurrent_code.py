"""The code of recurrences: register tiles that fit the registers of every target."""

from __future__ import annotations

import re

import pytest

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import resolve_target
from whet.frontend.load import load_model
from whet.kernel.recurrence import Recurrence
from whet.kernel.recurrence_schedule import choose_recurrence_tile, choose_recurrence_unroll
from whet.kernel.schedules import Schedules
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.target import Target
from whet.tests.test_recurrent import layer

TARGETS = ("x86_64-linux-gnu:haswell", "x86_64-linux-gnu:znver4", "aarch64-linux-gnu:cortex-a72")
VECTOR_SPILL = re.compile(r"[yz]mm.*\(%rsp|\(%rsp.*[yz]mm|\t(?:str|ldr|stp|ldp)\tq.*\[sp")


def assembly(op: str, batch: int, target: Target) -> str:
    """Return the assembly of a layer's recurrence."""
    model = load_model(layer(op, (4, batch, 16, 128)).model(), shapes=None)
    calls = lower(model, op_table(), target, level=3, schedules=Schedules(1)).calls
    (kernel,) = (c.kernel for c in calls if isinstance(c.kernel, Recurrence))
    return assembly_of(kernel_text("k", kernel, (), target), target)


def product_loops(text: str) -> list[str]:
    """Return the innermost loops that multiply weights and states."""
    blocks = re.split(r"^(\.L\w+):", text, flags=re.MULTILINE)[1:]
    found = []
    for label, block in zip(blocks[::2], blocks[1::2], strict=True):
        body, back, _ = block.partition(f"\t{label}\n")
        if back and len(re.findall(r"vfmadd|fmla", body)) >= 8:
            found.append(body)
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("op", "batch"), [("LSTM", 1), ("LSTM", 8), ("LSTM", 6), ("GRU", 8), ("RNN", 5)]
)
def test_no_vector_is_spilled_in_a_product(target: str, op: str, batch: int) -> None:
    loops = product_loops(assembly(op, batch, resolve_target(target)))
    assert loops
    assert not any(VECTOR_SPILL.search(loop) for loop in loops)


@pytest.mark.parametrize("gates", [1, 2, 3, 4])
def test_one_row_has_enough_sums_and_short_steps(gates: int) -> None:
    target = resolve_target("x86_64-linux-gnu:znver4")
    rows, vectors = choose_recurrence_tile(gates, 1, 256, target)
    assert rows == 1
    assert gates * vectors >= 6
    assert (
        gates * vectors * choose_recurrence_unroll(gates, vectors, target) * target.vector_bytes
        <= 1024
    )


def test_tiles_fit_registers_and_rows() -> None:
    for target in map(resolve_target, TARGETS):
        for gates in (1, 3, 4):
            for batch in (1, 2, 5, 16):
                rows, vectors = choose_recurrence_tile(gates, batch, 200, target)
                assert rows <= batch
                assert gates * vectors * rows < target.registers
