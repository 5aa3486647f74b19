"""What a step of a language model fuses: fewer launches, with the bits that it has without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import whet
from whet.codegen.objects.targets import resolve_target
from whet.dtypes import numpy_dtype
from whet.kernel.block_formats import FORMATS
from whet.kernel.blocks import PANEL
from whet.kernel.interpret_blocks import block_product, quantized_rows
from whet.kernel.interpret_paged import paged_attention
from whet.kernel.paged import PAGE, Weighing
from whet.tests.test_block_formats import random_rows
from whet.tests.test_lower_join_parts import PLACES
from whet.tests.test_paged_attention import Heads, paged_model, random_step

APART = {"fuse_quantised_norms": False, "fuse_query_rotation": False, "fuse_cache_writes": False}
OPSETS = [helper.make_opsetid("", 24), helper.make_opsetid("whet", 1)]


def compiled(model: ModelProto, passes: Mapping[str, bool | int] | None = None) -> Any:
    return whet.compile(model, options=whet.Options(threads=2, passes=dict(passes or {})))


# -- norms -----------------------------------------------------------------------------------------


def normed_product(norm: str, columns: int, depth: int, formats: tuple[str, ...]) -> ModelProto:
    """Return ``x + r`` under a norm, multiplied by weights in blocks of each format."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Add", ["x", "r"], ["sum"]),
        helper.make_node(norm, ["sum", "scale"], ["normed"], epsilon=1e-5),
    ]
    weights = {"scale": rng.standard_normal(depth, np.float32)}
    for k, name in enumerate(formats):
        weights[f"w{k}"] = random_rows(name, columns, depth // FORMATS[name].block, rng)
        product = helper.make_node(
            "BlockMatMul", [f"q{k}", f"w{k}"], [f"y{k}"], domain="whet", format=name
        )
        rows = helper.make_node("QuantizeRows", ["normed"], [f"q{k}"], domain="whet", format=name)
        nodes += [rows, product]
    graph = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["rows", depth]) for k in "xr"],
        [
            helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, ["rows", columns])
            for k in range(len(formats))
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS)


@pytest.mark.parametrize(
    ("norm", "formats", "depth", "launches"),
    [
        ("RMSNormalization", ("Q4_0",), 352, 2),
        ("RMSNormalization", ("Q6_K",), 256, 2),
        ("LayerNormalization", ("Q4_1",), 32, 2),
        ("RMSNormalization", ("Q4_0", "Q4_1"), 96, 5),  # two kinds of rows read the norm
    ],
)
def test_a_norm_runs_where_its_rows_become_integers(
    norm: str, formats: tuple[str, ...], depth: int, launches: int
) -> None:
    model = normed_product(norm, 45, depth, formats)
    fused, apart = compiled(model), compiled(model, APART)
    rng, weights = np.random.default_rng(depth), model.graph.initializer
    scale = numpy_helper.to_array(weights[0]).astype(np.float64)
    for rows in (0, 1, 2, 13, 30):
        feeds = {k: rng.standard_normal((rows, depth), np.float32) for k in "xr"}
        result = fused(feeds)
        for name, array in apart(feeds).items():
            assert np.array_equal(result[name], array)
        x = (feeds["x"] + feeds["r"]).astype(np.float64)
        x -= x.mean(axis=-1, keepdims=True) if norm == "LayerNormalization" else 0
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * scale
        for k, name in enumerate(formats if rows else ()):
            kind = FORMATS[name]
            exact = quantized_rows(x.astype(np.float32), kind.zero, kind.spans)
            wanted = block_product(exact, numpy_helper.to_array(weights[k + 1]), kind)[:rows]
            # a value at the border of two codes may fall to either
            assert np.abs(result[f"y{k}"] - wanted).max(initial=0) <= 0.02 * np.abs(wanted).max(
                initial=1
            )
    saved = 1 if len(formats) == 1 else 0
    assert (fused.stats.launches, apart.stats.launches) == (launches, launches + saved)
    counted = compiled(model, {"fuse_quantised_norms": 0})
    assert counted.stats.launches == apart.stats.launches


# -- rotations -------------------------------------------------------------------------------------


def turned_model(heads: Heads, weighing: Weighing, pool: str, *, interleaved: bool) -> ModelProto:
    """Return attention over pages whose queries and keys are turned first, as in a decoder."""
    model = paged_model(heads, weighing, pool)
    graph, wide = model.graph, {"q": heads.queries, "k": heads.keys}
    nodes = []
    for name, count in wide.items():
        nodes += [
            helper.make_node(
                "RotaryEmbedding",
                [f"{name}.flat", "cos", "sin", "places"],
                [f"{name}.turned"],
                num_heads=count,
                interleaved=int(interleaved),
                rotary_embedding_dim=2 * (heads.depth // 3) if heads.depth % 2 else 0,
            ),
            helper.make_node("Reshape", [f"{name}.turned", f"{name}.shape"], [name]),
        ]
        shape = np.array([-1, count, heads.depth])
        graph.initializer.append(numpy_helper.from_array(shape, f"{name}.shape"))
    pairs = turned_pairs(heads.depth)
    inputs = [
        *(
            helper.make_tensor_value_info(
                f"{name}.flat", TensorProto.FLOAT, [1, "tokens", count * heads.depth]
            )
            for name, count in wide.items()
        ),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [PLACES, pairs])
            for name in ("cos", "sin")
        ),
        helper.make_tensor_value_info("places", TensorProto.INT64, [1, "tokens"]),
        *(i for i in graph.input if i.name not in wide),
    ]
    del graph.input[:]
    graph.input.extend(inputs)
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def turned_pairs(depth: int) -> int:
    return depth // 3 if depth % 2 else depth // 2


def turned(x: np.ndarray, step: dict[str, np.ndarray], pairs: int, *, interleaved: bool) -> Any:
    """Return heads turned in float64."""
    result = x.astype(np.float64)
    c, s = (step[k].astype(np.float64)[step["places"][0]][:, None] for k in ("cos", "sin"))
    low = slice(0, 2 * pairs, 2) if interleaved else slice(0, pairs)
    high = slice(1, 2 * pairs, 2) if interleaved else slice(pairs, 2 * pairs)
    a, b = result[..., low].copy(), result[..., high].copy()
    result[..., low], result[..., high] = c * a - s * b, s * a + c * b
    return result


def turned_step(heads: Heads, pool: str, lengths: list[tuple[int, int]], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    step = random_step(heads, lengths, rng)
    tokens, pairs = len(step["slots"]), turned_pairs(heads.depth)
    for name in "qk":
        step[f"{name}.flat"] = step.pop(name).reshape(1, tokens, -1)
    for name in ("cos", "sin"):
        step[name] = rng.standard_normal((PLACES, pairs), np.float32)
    step["places"] = rng.integers(0, PLACES, (1, tokens))
    for name in ("key_pages", "value_pages"):
        step[name] = step[name].astype(numpy_dtype(pool))
    if pool == "int8":
        for name in ("key", "value"):
            shape = (len(step["key_pages"]), heads.keys, PAGE)
            step[f"{name}_scales"] = rng.random(shape, np.float32)
    return step


@pytest.mark.parametrize(
    ("heads", "pool", "interleaved", "launches"),
    [
        (Heads(8, 2, 64, 64), "float32", False, (2, 5)),
        (Heads(6, 1, 20, 12), "float16", False, (2, 5)),
        (Heads(3, 3, 33, 40), "bfloat16", False, (2, 7)),  # a third of a head stays as it is
        (Heads(4, 2, 16, 16), "float32", True, (2, 5)),
        (Heads(4, 2, 64, 64), "float32", True, (2, 5)),
        (Heads(2, 1, 33, 16), "float16", True, (8, 9)),  # pairs, and a last element alone: left
        (Heads(4, 2, 32, 20), "int8", False, (5, 9)),
    ],
)
def test_rotations_disappear_into_attention_and_cache(
    heads: Heads, pool: str, interleaved: bool, launches: tuple[int, int]
) -> None:
    weighing, rest = Weighing(0.2, window=40), [(70, 37), (1, 1), (33, 5)]
    model = turned_model(heads, weighing, pool, interleaved=interleaved)
    fused, apart = compiled(model), compiled(model, APART)
    own, other = (turned_step(heads, pool, rest, 5) for _ in range(2))
    own["slots"][2] = other["slots"][2] = -3  # not kept
    result, wanted = fused(own)["y"], apart(other)["y"]
    assert np.array_equal(result, wanted)
    for name in own:
        assert np.array_equal(own[name], other[name]), name
    assert (fused.stats.launches, apart.stats.launches) == launches
    if pool == "float32":
        q, k = (
            turned(
                own[f"{n}.flat"].reshape(-1, count, heads.depth),
                own,
                turned_pairs(heads.depth),
                interleaved=interleaved,
            )
            for n, count in (("q", heads.queries), ("k", heads.keys))
        )
        kept = np.arange(len(own["slots"])) != 2
        page, place = own["slots"][kept] // PAGE, own["slots"][kept] % PAGE
        assert np.abs(own["key_pages"][page, :, :, place] - k[kept]).max() < 1e-5
        pools = own["key_pages"].astype(np.float64), own["value_pages"].astype(np.float64)
        exact = paged_attention(q, pools, own["tiles"], own["tables"], weighing, heads.columns)
        assert np.abs(result - exact).max() < 1e-4


@pytest.mark.parametrize("name", ["fuse_query_rotation", "fuse_cache_writes"])
def test_switches_and_limits(name: str) -> None:
    heads = Heads(4, 2, 32, 32)
    model = turned_model(heads, Weighing(0.2), "float32", interleaved=False)
    counts = [compiled(model, {name: n}).stats.launches for n in (False, 0, 1, True)]
    assert counts[0] == counts[1] >= counts[2] >= counts[3] == 2 < counts[0]


def test_one_token_has_the_bits_of_many() -> None:
    heads = Heads(8, 2, 64, 64)
    model = compiled(turned_model(heads, Weighing(0.2), "float32", interleaved=False))
    step = turned_step(heads, "float32", [(70, 70)], 9)
    together = model(step)["y"]  # and all keys are in their pages
    for k in (0, 31, 32, 69):
        alone = {n: step[n] for n in ("key_pages", "value_pages", "tables", "cos", "sin")}
        alone |= {n: step[n][:, k : k + 1] for n in ("q.flat", "k.flat", "places")}
        alone |= {n: step[n][k : k + 1] for n in ("v", "slots")}
        alone["tiles"] = np.array([(0, 0, 1, k)], np.int32)
        assert np.array_equal(model(alone)["y"][0], together[k])


# -- products --------------------------------------------------------------------------------------


def gated_network(name: str, depth: int, inner: int, *, seen: bool = False) -> ModelProto:
    """Return a feed-forward network with a gate; ``seen`` lets the caller have its inner rows."""
    rng, kind = np.random.default_rng(4), FORMATS[name]
    sizes = {"gate": (inner, depth), "up": (inner, depth), "down": (40, inner)}
    weights = {
        k: random_rows(name, columns, deep // kind.block, rng)
        for k, (columns, deep) in sizes.items()
    }

    def block_op(op: str, inputs: list[str], output: str) -> Any:
        return helper.make_node(op, inputs, [output], domain="whet", format=name)

    nodes = [
        block_op("QuantizeRows", ["x"], "rows"),
        block_op("BlockMatMul", ["rows", "gate"], "g"),
        block_op("BlockMatMul", ["rows", "up"], "u"),
        helper.make_node("Swish", ["g"], ["opened"]),
        helper.make_node("Mul", ["opened", "u"], ["h"]),
        block_op("QuantizeRows", ["h"], "inner"),
        block_op("BlockMatMul", ["inner", "down"], "y"),
    ]
    shapes = {"y": 40, "h": inner} if seen else {"y": 40}
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", depth])],
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, ["rows", n])
            for k, n in shapes.items()
        ],
        [numpy_helper.from_array(value, k) for k, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS)


@pytest.mark.parametrize(
    ("name", "depth", "inner"), [("Q4_0", 544, 96), ("Q4_K", 256, 256), ("Q6_K", 256, 512)]
)
def test_a_product_ends_with_rows_of_the_next(name: str, depth: int, inner: int) -> None:
    model = gated_network(name, depth, inner)
    fused, apart = compiled(model), compiled(model, {"fuse_quantised_products": False})
    rng = np.random.default_rng(inner)
    together = rng.standard_normal((61, depth), np.float32)
    together[3], together[5, 7] = 0.0, np.nan
    everything = fused({"x": together})["y"]
    for rows in (0, 1, 2, 7, 13, 29, 61):  # from 24 on, stretch by stretch
        x = together[:rows]
        result, wanted = fused({"x": x})["y"], apart({"x": x})["y"]
        assert np.array_equal(result, wanted, equal_nan=True)
        assert np.array_equal(result, everything[:rows], equal_nan=True)
    wide = resolve_target("host").lanes == PANEL // 2
    assert apart.stats.launches - fused.stats.launches == (1 if wide else 0)


def test_inner_rows_that_others_read_stay() -> None:
    model = compiled(gated_network("Q4_0", 64, 64, seen=True))
    x = np.random.default_rng(8).standard_normal((5, 64), np.float32)
    result, other = model({"x": x}), compiled(gated_network("Q4_0", 64, 64))({"x": x})
    assert np.array_equal(result["y"], other["y"])
    assert result["h"].shape == (5, 64)
