"""Attention over any number of queries and keys: in one block of keys, in several, and unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.kernel.attention_schedule import KEY_BLOCK, MOST_KEYS
from whet.runtime.model import CompiledModel
from whet.tests.tolerance import assert_close

Array = np.ndarray[Any, np.dtype[Any]]
Extent = int | str

LENGTHS = ((1, 1), (7, 3), (16, 16), (5, KEY_BLOCK), (3, KEY_BLOCK + 1), (33, 2 * KEY_BLOCK + 5))


def masked_attention(
    rows: Extent, keys: Extent, widths: tuple[int, int], cache: Path
) -> CompiledModel:
    """Compile softmax(q k' / sqrt(depth) + mask) v of two images and three heads."""
    depth, cols = widths
    shapes: dict[str, list[Extent]] = {
        "q": [2, 3, rows, depth],
        "k": [2, 3, keys, depth],
        "v": [2, 3, keys, cols],
        "mask": [2, 1, 1, keys],
    }
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, rows, cols])
    scale = numpy_helper.from_array(np.array(depth**-0.5, np.float32), "scale")
    graph = helper.make_graph(nodes, "attention", inputs, [output], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    assert any(g.kernel.startswith("attention") for g in compiled.stats.groups)
    return compiled


def random_inputs(rows: int, keys: int, widths: tuple[int, int], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    depth, cols = widths
    shapes = {"q": (2, 3, rows, depth), "k": (2, 3, keys, depth), "v": (2, 3, keys, cols)}
    found = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    found["q"] *= 4
    hidden = rng.random((2, 1, 1, keys)) < 0.3
    hidden[..., -1] = False
    found["mask"] = np.where(hidden, -np.inf, 0).astype(np.float32)
    return found


def expected(inputs: dict[str, Array]) -> Array:
    """Return the attention in double precision."""
    q, k, v, mask = (inputs[n].astype(np.float64) for n in ("q", "k", "v", "mask"))
    scores = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5) + mask
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True) @ v)


def check(model: CompiledModel, inputs: dict[str, Array]) -> None:
    found = model(inputs)["y"]
    assert_close(found, expected(inputs), "attention", length=inputs["q"].shape[-1], scale=2.0)


@pytest.mark.parametrize("widths", [(64, 64), (5, 7), (33, 40)])
def test_one_model_takes_any_lengths(widths: tuple[int, int], cache: Path) -> None:
    model = masked_attention("rows", "keys", widths, cache)
    for seed, (rows, keys) in enumerate(LENGTHS):
        check(model, random_inputs(rows, keys, widths, seed))


@pytest.mark.parametrize("keys", [MOST_KEYS, MOST_KEYS + 1, 3 * KEY_BLOCK + 1])
def test_many_keys_are_done_block_by_block(keys: int, cache: Path) -> None:
    model = masked_attention(19, keys, (16, 24), cache)
    check(model, random_inputs(19, keys, (16, 24), keys))


def test_a_later_block_may_hold_the_only_visible_key(cache: Path) -> None:
    keys = 2 * KEY_BLOCK
    model = masked_attention("rows", "keys", (16, 16), cache)
    inputs = random_inputs(4, keys, (16, 16), 1)
    inputs["mask"][...] = -np.inf
    inputs["mask"][..., -1] = 0
    check(model, inputs)


def test_rows_without_a_visible_key_are_not_a_number(cache: Path) -> None:
    model = masked_attention("rows", "keys", (16, 16), cache)
    inputs = random_inputs(4, KEY_BLOCK + 7, (16, 16), 2)
    inputs["mask"][...] = -np.inf
    assert np.isnan(model(inputs)["y"]).all()
