"""Random numbers: known answers, distributions, independence of threads, seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.dtypes import numpy_dtype
from whet.kernel.philox import random_bits
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = 200_000
SIGMAS = 5.0
"""A test on a mean fails by chance once in two million."""


def draw(
    cache: Path,
    op: str,
    arrays: dict[str, Array] | None = None,
    *,
    threads: int = 1,
    outputs: tuple[str, ...] = ("y",),
    name: str = "draw",
    **attributes: Any,
) -> dict[str, Array]:
    """Return the outputs of one node."""
    given = arrays or {}
    node = helper.make_node(op, list(given), list(outputs), name=name, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, CODES[a.dtype.name], a.shape) for n, a in given.items()
    ]
    infos = [onnx.ValueInfoProto(name=n) for n in outputs]
    model = helper.make_model(helper.make_graph([node], "random", inputs, infos))
    options = whet.Options(cache_dir=str(cache), threads=threads)
    return whet.compile(onnx.shape_inference.infer_shapes(model), options=options)(given)


@pytest.mark.parametrize(
    ("counter", "key", "bits"),
    [
        (0, 0, 0x6CD10DF2FF1DAE59),
        (2**64 - 1, 2**32 - 1, 0xAB4FD7AD2C3F628B),
        (0x85A308D3243F6A88, 0x13198A2E, 0xF62A4C12DD7CE038),
    ],
)
def test_the_published_answers(counter: int, key: int, bits: int) -> None:
    found = random_bits(np.array(counter, np.uint64), np.array(key, np.uint64))
    assert int(found) == bits


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_uniform(dtype: str, tmp_path: Path) -> None:
    y = draw(tmp_path, "RandomUniform", shape=[SIZE], dtype=CODES[dtype], low=-2.0, high=3.0,
             seed=7.0)["y"]  # fmt: skip
    assert y.dtype == numpy_dtype(dtype)
    wide = y.astype(np.float64)
    assert wide.min() >= -2 and wide.max() <= 3
    error = 5 / np.sqrt(12 * SIZE)
    coarse = {"bfloat16": 0.02, "float16": 0.003}.get(dtype, 0.0)
    assert abs(wide.mean() - 0.5) < SIGMAS * error + coarse
    counts = np.histogram(wide, bins=20, range=(-2, 3))[0]
    if not coarse:
        chi = float(((counts - SIZE / 20) ** 2 / (SIZE / 20)).sum())
        assert chi < 19 + SIGMAS * np.sqrt(38)
        assert abs(np.corrcoef(wide[:-1], wide[1:])[0, 1]) < SIGMAS / np.sqrt(SIZE)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_normal(dtype: str, tmp_path: Path) -> None:
    y = draw(tmp_path, "RandomNormal", shape=[SIZE], dtype=CODES[dtype], mean=1.0, scale=2.0,
             seed=3.0)["y"].astype(np.float64)  # fmt: skip
    assert np.isfinite(y).all()
    z = (y - 1) / 2
    assert abs(z.mean()) < SIGMAS / np.sqrt(SIZE)
    assert abs(z.var() - 1) < SIGMAS * np.sqrt(2 / SIZE)
    assert abs((z**3).mean()) < SIGMAS * np.sqrt(15 / SIZE)
    assert abs((z**4).mean() - 3) < SIGMAS * np.sqrt(96 / SIZE)
    inside = np.mean(np.abs(z) < 1)
    assert abs(inside - 0.6826895) < SIGMAS * np.sqrt(0.217 / SIZE)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < SIGMAS / np.sqrt(SIZE)


def test_the_like_forms_take_shape_and_type(tmp_path: Path) -> None:
    x = np.zeros((3, 0, 5), np.float64)
    assert draw(tmp_path, "RandomNormalLike", {"x": x})["y"].shape == (3, 0, 5)
    y = draw(tmp_path, "RandomUniformLike", {"x": np.zeros((7, 3), np.int32)}, dtype=1)["y"]
    assert y.shape == (7, 3) and y.dtype == np.float32 and len(np.unique(y)) == 21
    with pytest.raises(whet.WhetError, match=r"float|does not take"):
        draw(tmp_path, "RandomUniformLike", {"x": np.zeros((7, 3), np.int32)})


def test_bernoulli(tmp_path: Path) -> None:
    p = np.repeat(np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32), SIZE // 5)
    y = draw(tmp_path, "Bernoulli", {"x": p}, dtype=TensorProto.BOOL, seed=1.0)["y"]
    assert y.dtype == np.bool_
    shares = y.reshape(5, -1).mean(axis=1)
    assert shares[0] == 0 and shares[4] == 1
    for share, wanted in zip(shares[1:4], (0.1, 0.5, 0.9), strict=True):
        assert abs(share - wanted) < SIGMAS * np.sqrt(wanted * (1 - wanted) / (SIZE / 5))


def test_multinomial(tmp_path: Path) -> None:
    p = np.array([[0.5, 0.2, 0.0, 0.3], [0.01, 0.01, 0.97, 0.01]])
    with np.errstate(divide="ignore"):
        x = np.log(p).astype(np.float32) + np.float32(4)
    count = 20_000
    y = draw(tmp_path, "Multinomial", {"x": x}, sample_size=count, seed=2.0, dtype=7)["y"]
    assert y.shape == (2, count) and y.dtype == np.int64
    for row, wanted in zip(y, p, strict=True):
        shares = np.bincount(row, minlength=4) / count
        assert (np.abs(shares - wanted) <= SIGMAS * np.sqrt(wanted * (1 - wanted) / count)).all()


@pytest.mark.parametrize("given", [True, False])
def test_dropout_in_training(given: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(5).standard_normal(SIZE).astype(np.float32)
    arrays = {"x": x, "ratio": np.array(0.3, np.float32), "mode": np.array(given)}
    found = draw(tmp_path, "Dropout", arrays, outputs=("y", "mask"), seed=9)
    y, mask = found["y"], found["mask"]
    if not given:
        np.testing.assert_array_equal(y, x)
        assert mask.all()
        return
    assert abs(mask.mean() - 0.7) < SIGMAS * np.sqrt(0.21 / SIZE)
    assert (y[~mask] == 0).all()
    np.testing.assert_allclose(y[mask], x[mask] / 0.7, rtol=1e-6)


def test_bits_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def one(**choices: Any) -> Array:
        return draw(tmp_path, "RandomNormal", shape=[100_003], **choices)["y"]

    first = one(seed=4.0)
    np.testing.assert_array_equal(first, one(seed=4.0, threads=2))
    few = draw(tmp_path, "RandomUniform", shape=[17], seed=4.0)["y"]
    many = draw(tmp_path, "RandomUniform", shape=[1700], seed=4.0)["y"]
    np.testing.assert_array_equal(few, many[:17])
    assert not np.array_equal(first, one(seed=5.0))
    unseeded = one(name="a")
    np.testing.assert_array_equal(unseeded, one(name="a", threads=2))
    assert not np.array_equal(unseeded, one(name="b"))


def test_nodes_without_seed_draw_different_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomUniform", [], [name], name=name, shape=[50]) for name in ("a", "b")
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [50]) for n in ("a", "b")]
    model = helper.make_model(helper.make_graph(nodes, "two", [], infos))
    compiled = whet.compile(model, options=whet.Options(cache_dir=str(tmp_path)))
    found = compiled({})
    assert not np.array_equal(found["a"], found["b"])
    np.testing.assert_array_equal(found["a"], compiled({})["a"])


# -- optimisers ------------------------------------------------------------------------------------

OPTIMISERS: list[tuple[str, int, dict[str, Any]]] = [
    ("Adagrad", 1, {"norm_coefficient": 0.01, "decay_factor": 0.1, "epsilon": 1e-5}),
    ("Adam", 2, {"norm_coefficient": 0.01, "norm_coefficient_post": 0.02, "alpha": 0.8}),
    ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.3, "mode": "standard"}),
    ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.3, "mode": "nesterov"}),
]


@pytest.mark.parametrize(("op", "states", "attributes"), OPTIMISERS)
@pytest.mark.parametrize("count", [0, 3])
def test_optimiser_steps(
    op: str, states: int, attributes: dict[str, Any], count: int, tmp_path: Path
) -> None:
    domain = "ai.onnx.preview.training"
    rng = np.random.default_rng(6)
    shapes = ((5, 7), (11,))
    names = [f"{part}{k}" for part in "xgvh"[: states + 2] for k in range(2)]
    arrays: dict[str, Array] = {"r": np.array(0.1, np.float32), "t": np.array(count, np.int64)}
    for name in names:
        values = rng.standard_normal(shapes[int(name[1])]).astype(np.float32)
        arrays[name] = values if name[0] in "xg" else np.abs(values)
    outputs = [f"new_{n}" for n in names if n[0] != "g"]
    node = helper.make_node(op, ["r", "t", *names], outputs, domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, CODES[a.dtype.name], a.shape) for n, a in arrays.items()
    ]
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[int(n[-1])]) for n in outputs
    ]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph([node], "step", inputs, infos)
    model = helper.make_model(graph, opset_imports=imports)
    found = whet.compile(model, options=whet.Options(cache_dir=str(tmp_path)))(arrays)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, arrays)
    for name, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found[name], wanted, rtol=2e-5, atol=1e-6)
