"""Attention whose products QuantizeLinear and DequantizeLinear surround: integers in one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.codegen.objects.targets import resolve_target
from whet.kernel.attention_schedule import MOST_INTEGER_KEYS, MOST_KEYS

Array = np.ndarray[Any, Any]

SCALES = {"q": 0.03, "k": 0.031, "v": 0.029, "raw": 0.2, "p": 1 / 255}
ZEROS = {"q": 120, "k": 131, "v": 117, "raw": 128, "p": 0}


class Builder:
    """A model of quantised attention and its reference, which works in float64."""

    def __init__(self, sizes: tuple[int, int, int], **options: Any) -> None:
        self.rows, self.depth, self.cols = sizes
        self.kind = options.get("kind", "uint8")
        self.zeros = {**ZEROS, **options.get("zeros", {})}
        self.scales = {**SCALES, **options.get("scales", {})}
        self.rounded = (
            ("q", "k", "v", "raw", "p") if options.get("scores") else ("q", "k", "v", "p")
        )
        self.mask = options.get("mask", True)
        self.keys = options.get("keys", self.rows)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def pair(self, source: str, name: str) -> str:
        """Round a value to its grid, if it has one."""
        if name not in self.rounded:
            return source
        point = self.zeros[name] - (128 if self.kind == "int8" else 0)
        scale, zero = f"{name}_s", f"{name}_z"
        held = {scale: np.array(self.scales[name], np.float32), zero: np.array(point, self.kind)}
        self.constants += [numpy_helper.from_array(a, n) for n, a in held.items()]
        code = self.add("QuantizeLinear", source, scale, zero, to=f"{name}_q")
        return self.add("DequantizeLinear", code, scale, zero, to=f"{name}_dq")

    def add(self, op: str, *inputs: str, to: str, **attributes: Any) -> str:
        """Add a node."""
        self.nodes.append(helper.make_node(op, inputs, [to], **attributes))
        return to

    def model(self) -> onnx.ModelProto:
        """Return the model."""
        scale = numpy_helper.from_array(np.array(self.depth**-0.5, np.float32), "scale")
        self.constants.append(scale)
        turned = self.add("Transpose", "k", to="kt", perm=[0, 1, 3, 2])
        q, k, v = self.pair("q", "q"), self.pair(turned, "k"), self.pair("v", "v")
        score = self.pair(self.add("MatMul", q, k, to="raw"), "raw")
        score = self.add("Mul", score, "scale", to="scaled")
        if self.mask:
            score = self.add("Add", score, "mask", to="masked")
        share = self.pair(self.add("Softmax", score, to="p", axis=-1), "p")
        self.add("MatMul", share, v, to="o")
        self.add("Transpose", "o", to="y", perm=[0, 2, 1, 3])
        inputs = {n: list(a.shape) for n, a in self.feeds(0).items()}
        graph = helper.make_graph(
            self.nodes, "attention",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, self.rows, 3, self.cols])],
            self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def feeds(self, seed: int) -> dict[str, Array]:
        """Return random inputs; some go beyond their grids."""
        rng, heads = np.random.default_rng(seed), (2, 3)
        rows, keys = self.rows, self.keys
        shapes = {"q": (rows, self.depth), "k": (keys, self.depth), "v": (keys, self.cols)}
        drawn = {n: rng.standard_normal((*heads, *s), np.float32) for n, s in shapes.items()}
        found = {n: np.float32(1.5) * a for n, a in drawn.items()}
        if self.mask:
            hidden = rng.random((2, 1, 1, self.keys)) < 0.3
            found["mask"] = np.where(hidden, np.float32(-1e4), np.float32(0))
        return found

    def reference(self, feeds: dict[str, Array]) -> tuple[Array, Array]:
        """Return the result, and how far it moves if codes of shares are off by one at a half."""
        rounded = {n: self._rounded(feeds[n], n) for n in "qkv"}
        raw = self._rounded(np.einsum("bhid,bhjd->bhij", rounded["q"], rounded["k"]), "raw")
        score = raw * np.float32(self.depth**-0.5) + feeds.get("mask", np.float32(0))
        raised = np.exp(score - score.max(-1, keepdims=True))
        share = raised / raised.sum(-1, keepdims=True)
        codes = share / np.float32(self.scales["p"])
        # Single precision knows scores of up to 32, and the logarithms of shares, to 2e-6. Steps
        # of a share that are as small as more keys need show it.
        unsure = 4e-6 * codes if self.scales["p"] < SCALES["p"] else 0.0
        doubtful = np.abs(codes - np.floor(codes) - 0.5) < 2e-4 + unsure
        moved = np.einsum("bhij,bhjd->bihd", doubtful * self.scales["p"], np.abs(rounded["v"]))
        return np.einsum("bhij,bhjd->bihd", self._rounded(share, "p"), rounded["v"]), moved

    def _rounded(self, x: Array, name: str) -> Array:
        if name not in self.rounded:
            return x
        scale, zero = np.float32(self.scales[name]).astype(np.float64), self.zeros[name]
        steps = np.rint(x / scale.astype(x.dtype)).astype(np.float64)
        return np.asarray((np.clip(steps + zero, 0, 255) - zero) * scale)


CASES: list[tuple[tuple[int, int, int], dict[str, Any]]] = [
    ((21, 20, 24), {}),
    ((21, 20, 24), {"kind": "int8"}),
    ((16, 64, 64), {"mask": False}),
    ((1, 4, 1), {"zeros": {"q": 0, "k": 255, "v": 0}}),
    ((33, 12, 5), {"keys": 50, "zeros": {"q": 128, "k": 128, "v": 128}}),
    ((5, 68, 17), {"keys": 3}),
    ((7, 16, 9), {"keys": MOST_KEYS + 1, "scales": {"p": 1 / 5000}}),
    ((3, 64, 64), {"keys": 1000, "scales": {"p": 1 / 8000}, "kind": "int8"}),
    ((19, 8, 33), {"keys": 2048, "scales": {"p": 1 / 20000}, "scores": True}),
    ((1, 12, 5), {"keys": 4099, "scales": {"p": 1 / 40000}, "mask": False}),
]


def kinds(compiled: Any) -> list[str]:
    return [group.kernel.split("_")[0] for group in compiled.stats.groups]


def check(built: Builder, **options: Any) -> None:
    compiled = whet.compile(built.model(), options=whet.Options(threads=2, **options))
    assert kinds(compiled).count("attention") == 1 and "contraction" not in kinds(compiled)
    for seed in (1, 2):
        feeds = built.feeds(seed)
        right, moved = built.reference(feeds)
        found = compiled(feeds)["y"]
        assert (np.abs(found - right) <= moved + 2e-6 * np.abs(right).max()).all()


@pytest.mark.parametrize(("sizes", "options"), CASES, ids=str)
def test_both_products_are_integers_of_one_kernel(
    sizes: tuple[int, int, int], options: dict[str, Any]
) -> None:
    check(Builder(sizes, **options))


def test_processors_without_dot_products_give_the_same() -> None:
    haswell = "x86_64-linux-gnu:haswell"
    if resolve_target("host").vector_bytes < resolve_target(haswell).vector_bytes:
        pytest.skip("this processor cannot run it")
    check(Builder((21, 20, 24)), target=haswell)


@pytest.mark.peer
def test_rounded_scores_are_those_of_onnx_runtime() -> None:
    ort = pytest.importorskip("onnxruntime")
    built = Builder((19, 32, 16), scores=True)
    model, feeds = built.model(), built.feeds(3)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (right,) = ort.InferenceSession(model.SerializeToString(), plain).run(None, feeds)
    compiled = whet.compile(model)
    assert "attention" in kinds(compiled)
    step = SCALES["p"] * np.abs(feeds["v"]).max()
    found = compiled(feeds)["y"]
    assert np.abs(found - right).max() <= 2 * step and np.abs(found - right).mean() < 0.01 * step


@pytest.mark.parametrize(
    ("sizes", "keys"), [((4, 6, 8), 4), ((2, 4, 4), MOST_INTEGER_KEYS + 1)], ids=str
)
def test_what_one_kernel_cannot_do_stays_two_products(
    sizes: tuple[int, int, int], keys: int
) -> None:
    """Depths that are no whole quads, and keys that are too many for one block."""
    built = Builder(sizes, mask=False, keys=keys)
    compiled = whet.compile(built.model())
    assert "attention" not in kinds(compiled) and kinds(compiled).count("contraction") == 2
    feeds = built.feeds(4)
    right, moved = built.reference(feeds)
    assert (np.abs(compiled(feeds)["y"] - right) <= moved + 2e-6 * np.abs(right).max()).all()
