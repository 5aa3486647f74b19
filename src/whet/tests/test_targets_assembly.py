"""The inner loops of products on every vector unit: no spills, no calls, multiply-adds by lane."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import resolve_target
from whet.frontend.load import load_model
from whet.kernel.schedule import Work, choose_tile
from whet.kernel.schedules import Schedules
from whet.kernel.spec import Attention, Contraction, Kernel
from whet.lower.assemble import assemble
from whet.lower.lower import lower
from whet.ops.table import op_table
from whet.passes.pipeline import run_passes
from whet.target import Target
from whet.tests.target_models import Sketch

HASWELL = "x86_64-unknown-linux-gnu:haswell"
CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"
CORTEX = "aarch64-linux-gnu:cortex-a72"
NEOVERSE = "aarch64-linux-gnu:neoverse-n1"

FMA = re.compile(r"^\s+(vfn?madd|fmla)")
LANE_FMA = re.compile(r"^\s+fmla\s.*\.s\[\d\]")
CALL = re.compile(r"^\s+(call\w*|bl|blr)\s")
BRANCH = re.compile(r"^\s+(?:b|b\.\w+|cbn?z|tbn?z|j\w+)\s.*?(\.L\w+)$")
SPILL = re.compile(r"^.*(?:[xyz]mm.*\(%rsp|\(%rsp.*[xyz]mm|\b[qd]\d+.*\[sp)")


def products() -> onnx.ModelProto:
    """Return 1x1, 3x3 (padded, strided) and first-layer convolutions."""
    g = Sketch(6)
    x = g.given("x", (1, 3, 67, 67))
    h = g.op("Conv", x, g.weight(48, 3, 3, 3), g.weight(48), strides=[2, 2])
    h = g.op("Relu", g.op("Conv", h, g.weight(64, 48, 1, 1), g.weight(64)))
    h = g.op("Conv", h, g.weight(64, 64, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    return g.finish(g.op("Conv", h, g.weight(256, 64, 1, 1), g.weight(256)))


def attention() -> onnx.ModelProto:
    """Return softmax(q k) v over 64 rows."""
    g = Sketch(7)
    q, k, v = (g.given(n, (2, 4, 64, 32)) for n in ("q", "k", "v"))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    scaled = g.op("Mul", scores, g.constant(np.float32(0.2)))
    return g.finish(g.op("MatMul", g.op("Softmax", scaled, axis=-1), v))


def kernels(model: onnx.ModelProto, target: Target) -> dict[str, Kernel]:
    graph = load_model(model)
    run_passes(graph, opt_level=3, switches={})
    lowered = lower(graph, op_table(), target, level=3, schedules=Schedules(1))
    return assemble(lowered, target, threads=1, reuse=True).kernels


def inner_loops(assembly: str) -> Iterator[list[str]]:
    """Yield the instructions of every innermost loop: from a label to the last jump back to it."""
    code: list[str] = []
    labels: dict[str, int] = {}
    spans: dict[int, int] = {}
    for line in assembly.splitlines():
        label = re.match(r"^(\.L\w+):", line)
        if label:
            labels[label[1]] = len(code)
        if not re.match(r"^\s+[a-z]", line):
            continue
        jump = BRANCH.match(line)
        if jump and jump[1] in labels:
            spans[labels[jump[1]]] = len(code)
        code.append(line)
    for first, last in spans.items():
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans.items()):
            yield code[first : last + 1]


def hottest(assembly: str) -> list[str]:
    return max(inner_loops(assembly), key=lambda loop: sum(bool(FMA.match(i)) for i in loop))


@pytest.mark.parametrize("name", [HASWELL, CASCADELAKE, CORTEX, NEOVERSE])
@pytest.mark.parametrize("model", [products, attention])
def test_inner_loops(model: type[onnx.ModelProto], name: str) -> None:
    target = resolve_target(name)
    seen = 0
    for symbol, kernel in kernels(model(), target).items():
        if not isinstance(kernel, Contraction | Attention):
            continue
        seen += 1
        assembly = assembly_of(kernel_text(symbol, kernel, (), target), target)
        assert not [line for line in assembly.splitlines() if CALL.match(line)]
        loop = hottest(assembly)
        count = sum(bool(FMA.match(line)) for line in loop)
        spills = sum(bool(SPILL.match(line)) for line in loop)
        assert spills == 0, symbol
        assert count * 2 > len(loop), symbol
        if target.lane_fma:
            assert sum(bool(LANE_FMA.match(line)) for line in loop) > 0.9 * count, symbol
    assert seen


@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        (HASWELL, {(6, 2)}),
        (CORTEX, {(8, 2), (9, 2), (5, 4)}),
        (CASCADELAKE, {(13, 2), (8, 3)}),
    ],
)
def test_register_tiles(name: str, tiles: set[tuple[int, int]]) -> None:
    target = resolve_target(name)
    for rows, cols, depth in [(3136, 64, 64), (784, 512, 128), (128, 768, 768)]:
        tile = choose_tile(Work(1, rows, cols, depth, depth, False), target, 1)
        assert (tile.rows, tile.vectors) in tiles
