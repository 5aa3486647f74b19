"""Attention over pages: against NumPy in float64, the same bits in any company, hostile tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

import whet
from whet.dtypes import numpy_dtype
from whet.kernel.interpret_paged import paged_attention
from whet.kernel.paged import COLUMNS, PAGE, Weighing
from whet.runtime.model import CompiledModel

FLOAT, INT = 1, 6


@dataclass(frozen=True)
class Heads:
    """Heads of queries and of keys, and their sizes."""

    queries: int
    keys: int
    depth: int
    columns: int

    @property
    def padded(self) -> int:
        """Return the floats in a row of the pool of values."""
        return -(-self.columns // COLUMNS) * COLUMNS


POOLS = {"float32": 1, "float16": 10, "bfloat16": 16, "int8": 3}


def paged_model(heads: Heads, weighing: Weighing, pool: str = "float32") -> ModelProto:
    inputs: list[tuple[str, int, list[int | str]]] = [
        ("q", FLOAT, ["tokens", heads.queries, heads.depth]),
        ("k", FLOAT, ["tokens", heads.keys, heads.depth]),
        ("v", FLOAT, ["tokens", heads.keys, heads.columns]),
        ("key_pages", POOLS[pool], ["pages", heads.keys, heads.depth, PAGE]),
        ("value_pages", POOLS[pool], ["pages", heads.keys, PAGE, heads.padded]),
        ("slots", INT, ["tokens"]),
        ("tiles", INT, ["tiles", 4]),
        ("tables", INT, ["sequences", "width"]),
    ]
    if pool == "int8":
        inputs.append(("key_scales", FLOAT, ["pages", heads.keys, PAGE]))
        inputs.append(("value_scales", FLOAT, ["pages", heads.keys, PAGE]))
    node = helper.make_node(
        "PagedAttention",
        [name for name, _, _ in inputs],
        ["y"],
        domain="whet",
        scale=weighing.scale,
        softcap=weighing.softcap,
        window=weighing.window,
    )
    result = helper.make_tensor_value_info("y", FLOAT, ["tokens", heads.queries, heads.columns])
    graph = helper.make_graph(
        [node], "paged", [helper.make_tensor_value_info(*i) for i in inputs], [result]
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("whet", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def random_step(
    heads: Heads, lengths: list[tuple[int, int]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a step of sequences, given how long each is and how many of its tokens are new."""
    pages = sum(-(-length // PAGE) for length, _ in lengths) + 3
    free = iter(rng.permutation(pages).tolist())
    width = max(-(-length // PAGE) for length, _ in lengths)
    tables = np.zeros((len(lengths), width), np.int32)
    tiles: list[tuple[int, int, int, int]] = []
    slots: list[int] = []
    for row, (length, new) in enumerate(lengths):
        for page in range(-(-length // PAGE)):
            tables[row, page] = next(free)
        for first in range(length - new, length, 7):
            tiles.append((row, len(slots), min(7, length - first), first))
            for position in range(first, min(first + 7, length)):
                slots.append(tables[row, position // PAGE] * PAGE + position % PAGE)
    tokens = len(slots)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    values = np.zeros((pages, heads.keys, PAGE, heads.padded), np.float32)
    values[..., : heads.columns] = floats(pages, heads.keys, PAGE, heads.columns)
    return {
        "q": floats(tokens, heads.queries, heads.depth),
        "k": floats(tokens, heads.keys, heads.depth),
        "v": floats(tokens, heads.keys, heads.columns),
        "key_pages": floats(pages, heads.keys, heads.depth, PAGE),
        "value_pages": values,
        "slots": np.array(slots, np.int32),
        "tiles": np.array(tiles, np.int32),
        "tables": tables,
    }


def reference(heads: Heads, weighing: Weighing, step: dict[str, np.ndarray]) -> np.ndarray:
    keys, values = (step[n].astype(np.float64) for n in ("key_pages", "value_pages"))
    page, place = step["slots"] // PAGE, step["slots"] % PAGE
    keys[page, :, :, place] = step["k"]
    values[page, :, place, : heads.columns] = step["v"]
    q = step["q"].astype(np.float64)
    return paged_attention(
        q, (keys, values), step["tiles"], step["tables"], weighing, heads.columns
    )


def compiled(heads: Heads, weighing: Weighing) -> CompiledModel:
    return whet.compile(paged_model(heads, weighing), options=whet.Options(threads=2))


@pytest.mark.parametrize(
    ("heads", "weighing"),
    [
        (Heads(8, 2, 64, 64), Weighing(0.125)),
        (Heads(3, 3, 8, 8), Weighing(0.3, window=5)),
        (Heads(6, 1, 20, 12), Weighing(0.2, softcap=3.0)),
        (Heads(2, 2, 33, 40), Weighing(0.2, softcap=2.0, window=40)),
    ],
)
def test_equals_the_definition(heads: Heads, weighing: Weighing) -> None:
    rng = np.random.default_rng(5)
    step = random_step(heads, [(70, 37), (1, 1), (33, 5), (64, 1)], rng)
    wanted = reference(heads, weighing, step)
    result = compiled(heads, weighing)(step)["y"]
    assert np.abs(result - wanted).max() < 2e-6 * np.sqrt(heads.depth)
    page, place = step["slots"] // PAGE, step["slots"] % PAGE
    assert np.array_equal(step["key_pages"][page, :, :, place], step["k"])
    assert np.array_equal(step["value_pages"][page, :, place, : heads.columns], step["v"])


@pytest.mark.parametrize(("pool", "step_size"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_pools_of_half_precision_hold_rounded_rows(pool: str, step_size: float) -> None:
    heads, weighing = Heads(4, 2, 20, 12), Weighing(0.2)
    step = random_step(heads, [(70, 37), (1, 1), (33, 5)], np.random.default_rng(11))
    for name in ("key_pages", "value_pages"):
        step[name] = step[name].astype(numpy_dtype(pool))
    for name in ("k", "v"):
        step[name] = step[name].astype(numpy_dtype(pool)).astype(np.float32)
    wanted = reference(heads, weighing, step)
    model = whet.compile(paged_model(heads, weighing, pool), options=whet.Options(threads=2))
    assert np.abs(model(step)["y"] - wanted).max() < 2e-6 * np.sqrt(heads.depth)
    step["k"] = step["k"] * np.float32(1.01)
    model(step)
    page, place = step["slots"] // PAGE, step["slots"] % PAGE
    kept = step["key_pages"][page, :, :, place].astype(np.float32)
    assert (np.abs(kept - step["k"]) <= step_size * np.abs(step["k"])).all()


def test_pools_of_bytes_have_a_scale_for_every_token_and_head() -> None:
    heads, weighing, rng = Heads(6, 2, 33, 20), Weighing(0.2), np.random.default_rng(12)
    step = random_step(heads, [(70, 70), (33, 33)], rng)
    step["v"][3], step["k"][5] = 0.0, 0.0
    wanted = reference(heads, weighing, step)
    pages = len(step["key_pages"])
    for name in ("key", "value"):
        step[f"{name}_pages"] = rng.integers(-99, 99, step[f"{name}_pages"].shape, np.int8)
        step[f"{name}_scales"] = np.full((pages, heads.keys, PAGE), np.nan, np.float32)
    model = whet.compile(paged_model(heads, weighing, "int8"), options=whet.Options(threads=2))
    result = model(step)["y"]
    assert np.abs(result - wanted).max() < 0.03 * np.abs(wanted).max()
    page, place = step["slots"] // PAGE, step["slots"] % PAGE
    scales = step["key_scales"][page, :, place]
    assert np.allclose(scales, np.abs(step["k"]).max(axis=2) / 127, rtol=1e-6)
    kept = step["key_pages"][page, :, :, place] * scales[..., None]
    assert (np.abs(kept - step["k"]) <= 0.501 * scales[..., None]).all()


def test_bits_do_not_depend_on_company() -> None:
    heads, weighing = Heads(4, 2, 16, 16), Weighing(0.25, window=50)
    model, rng = compiled(heads, weighing), np.random.default_rng(6)
    step = random_step(heads, [(90, 90), (40, 11), (5, 5)], rng)
    together = model({name: array.copy() for name, array in step.items()})["y"]
    for k in range(len(step["slots"])):
        alone = {n: step[n] for n in ("key_pages", "value_pages", "tables")}
        tile = next(t for t in step["tiles"].tolist() if t[1] <= k < t[1] + t[2])
        alone |= {n: step[n][k : k + 1] for n in ("q", "k", "v", "slots")}
        alone["tiles"] = np.array([(tile[0], 0, 1, tile[3] + k - tile[1])], np.int32)
        assert np.array_equal(model(alone)["y"][0], together[k])


def test_wrong_tables_do_no_harm() -> None:
    heads = Heads(4, 2, 16, 16)
    model, rng = compiled(heads, Weighing(0.25)), np.random.default_rng(7)
    for _ in range(20):
        step = random_step(heads, [(40, 9), (3, 2)], rng)
        limits = np.iinfo(np.int32)
        for name in ("slots", "tiles", "tables"):
            wild = rng.random(step[name].shape) < 0.5
            step[name][wild] = rng.integers(limits.min, limits.max, wild.sum(), np.int32)
        assert model(step)["y"].shape == step["q"].shape


def test_pool_has_to_be_an_input() -> None:
    model = paged_model(Heads(2, 2, 16, 16), Weighing(1.0))
    model.graph.node.insert(0, helper.make_node("Abs", ["key_pages"], ["changed"]))
    model.graph.node[1].input[3] = "changed"
    with pytest.raises(whet.WhetError, match="changed in place"):
        whet.compile(model)


def test_pools_that_could_not_be_changed_are_refused(tmp_path: Path) -> None:
    heads = Heads(2, 2, 16, 16)
    model = compiled(heads, Weighing(0.25))
    model.save(tmp_path / "paged.whet")
    model = whet.load(tmp_path / "paged.whet")
    step = random_step(heads, [(9, 9)], np.random.default_rng(8))
    fixed = step["key_pages"].copy()
    fixed.flags.writeable = False
    for wrong in (fixed, np.repeat(step["key_pages"], 2, axis=0)[::2]):
        with pytest.raises(whet.InputError, match="key_pages"):
            model({**step, "key_pages": wrong})
    assert model(step)["y"].shape == step["q"].shape


def test_a_run_without_a_result_is_refused() -> None:
    heads = Heads(2, 2, 16, 16)
    step = random_step(heads, [(9, 9)], np.random.default_rng(9))
    nothing = {name: step[name][:0] for name in ("q", "k", "v", "slots")}
    with pytest.raises(whet.InputError, match="would not be changed"):
        compiled(heads, Weighing(0.25))({**step, **nothing})
