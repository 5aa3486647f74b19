"""Single contrib nodes that ONNX Runtime can run, as cases for a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.tests.contrib_harness import Array, bytes_of, normal, rng


@dataclass(frozen=True)
class Case:
    """One node.

    Attributes:
        op: operator type.
        inputs: arrays; ``None`` where an optional input is left out.
        outputs: how many, or their names, empty where one is not wanted.
        attributes: of the node.
        constants: positions of inputs that are initialisers.
        steps: by how much integer results may differ.
        length: number of terms that are summed.
        scale: size of a term.
    """

    op: str
    inputs: Sequence[Array | None]
    outputs: int | list[str] = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    steps: int = 0
    length: int = 1
    scale: float = 1.0


X, BIAS, GAIN = normal(2, 5, 8), normal(8, seed=1), normal(8, seed=4)
IDS = rng().integers(0, 11, (2, 5)).astype(np.int32)
KINDS = rng(1).integers(0, 2, (2, 5)).astype(np.int32)
TWO_ROWS = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1]], np.int32)


def activations() -> Iterator[Case]:
    yield Case("Gelu", [X])
    yield Case("BiasGelu", [X, BIAS])
    yield Case("FastGelu", [X, BIAS])
    yield Case("FastGelu", [X])
    yield Case("QuickGelu", [X], attributes={"alpha": 1.3})
    yield Case("QuickGelu", [X])


def products() -> Iterator[Case]:
    a, b = normal(2, 3, 5), normal(2, 3, 4, seed=1)
    yield Case("FusedMatMul", [a, b], attributes={"transA": 1, "alpha": 0.5}, length=3)
    b = normal(2, 4, 5, seed=1)
    yield Case("FusedMatMul", [a, b], attributes={"transB": 1, "alpha": 2.0}, length=5)
    b = normal(2, 5, 4, seed=1)
    yield Case("FusedMatMul", [normal(3, 2, 5), b], attributes={"transBatchA": 1}, length=5)
    flips = {"transBatchA": 1, "transA": 1, "transBatchB": 1}
    yield Case("FusedMatMul", [normal(5, 2, 3), normal(5, 2, 4)], attributes=flips, length=5)
    abc: list[Array | None] = [normal(3, 5), normal(5, 4, seed=1), normal(4, seed=2)]
    for name, more in (("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.2}), ("Tanh", {})):
        given = {"activation": name, "alpha": 0.5, "beta": 2.0, **more}
        yield Case("FusedGemm", abc, attributes=given, length=5)


def block_quantised() -> Iterator[Case]:
    for bits, depth, block in ((4, 64, 16), (4, 50, 32), (8, 64, 32), (4, 33, 16)):
        blocks = -(-depth // block)
        weight = bytes_of(6, blocks, block * bits // 8)
        scales = np.abs(normal(6, blocks)) / 10
        zeros = bytes_of(6, -(-blocks * bits // 8), seed=3)
        given = {"K": depth, "N": 6, "bits": bits, "block_size": block}
        a = normal(2, 3, depth)
        for more in ([], [zeros], *([[normal(6, blocks) + 8]] if bits == 4 else [])):
            inputs: list[Array | None] = [a, weight, scales, *more]
            fixed = tuple(range(1, len(inputs)))
            yield Case("MatMulNBits", inputs, 1, given, fixed, length=depth, scale=5)
    for kind, depth, block in ((0, 64, 16), (1, 48, 32)):
        given = {"K": depth, "N": 6, "block_size": block, "quant_type": kind}
        packed, largest = bytes_of(3 * depth), np.abs(normal(6 * depth // block))
        codes: list[Array | None] = [normal(2, 3, depth), packed, largest]
        yield Case("MatMulBnb4", codes, 1, given, (1, 2), length=depth)
    for bits, width, zeros_ in ((4, 16, None), (4, 16, bytes_of(7, 1)), (8, 32, None)):
        given = {"bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
        places = rng().integers(0, 7, (2, 3))
        table: list[Array | None] = [bytes_of(7, width), places, np.abs(normal(7, 2)), zeros_]
        yield Case("GatherBlockQuantized", table, 1, given, (0, 2, 3))


def convolutions() -> Iterator[Case]:
    inputs: list[Array | None] = [normal(1, 4, 6, 6), normal(8, 4, 3, 3, seed=1), normal(8, seed=2)]
    given: dict[str, Any]
    numbers = {"LeakyRelu": [0.2], "Clip": [-0.5, 0.5], "HardSigmoid": [0.3, 0.4]}
    for name in ("Relu", "Tanh", "Sigmoid", *numbers):
        more = {"activation_params": numbers[name]} if name in numbers else {}
        given = {"activation": name, "kernel_shape": [3, 3], **more}
        yield Case("FusedConv", inputs, attributes=given, length=36)
    given = {"activation": "Relu", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    yield Case("FusedConv", [*inputs, normal(1, 8, 6, 6, seed=3)], attributes=given, length=36)
    yield Case("NhwcMaxPool", [bytes_of(1, 5, 5, 3)], attributes={"kernel_shape": [2, 2]})
    pads = np.array([1, 1, 1, 1], np.int64)
    inputs = [normal(1, 4, 6, 6), normal(4, 5, 3, 3, seed=1), pads]
    given = {"kernel_shape": [3, 3]}
    yield Case("ConvTransposeWithDynamicPads", inputs, 1, given, (1, 2), length=36)
    inputs = [normal(1, 2, 5, 5), normal(1, 3, 3, 2)]
    yield Case("GridSample", inputs, attributes={"mode": "bilinear"})
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [-0.1, 0, 0.5, 1.3]], np.float32)
    images, size = np.array([0, 1, 1], np.int32), np.array([4, 3], np.int32)
    given = {"extrapolation_value": 0.5}
    yield Case("CropAndResize", [normal(2, 3, 6, 7), boxes, images, size], 1, given, (3,))


def norms() -> Iterator[Case]:
    skip, more = normal(2, 5, 8, seed=5), normal(8, seed=6)
    epsilon = {"epsilon": 1e-5}
    yield Case("SkipLayerNormalization", [X, skip, GAIN, BIAS], attributes=epsilon)
    outputs = ["y", "", "", "sum"]
    yield Case("SkipLayerNormalization", [X, skip, GAIN, BIAS, more], outputs, epsilon)
    yield Case("SkipSimplifiedLayerNormalization", [X, skip, GAIN], outputs, epsilon)
    tables: list[Array | None] = [normal(11, 8), normal(7, 8, seed=1), normal(2, 8, seed=2)]
    inputs = [IDS, KINDS, *tables, GAIN, BIAS]
    yield Case("EmbedLayerNormalization", inputs, 2, epsilon)
    inputs = [IDS, None, *tables[:2], None, GAIN, BIAS, TWO_ROWS]
    yield Case("EmbedLayerNormalization", inputs, 3, epsilon)


def general() -> Iterator[Case]:
    yield Case("Trilu", [normal(3, 4)], attributes={"upper": 0})
    yield Case("ExpandDims", [normal(3, 4), np.array(1, np.int32)], constants=(1,))
    pads, value = np.array([1, 0, 0, 2], np.int64), np.array([1.5], np.float32)
    yield Case("Pad", [normal(3, 4), pads, value], constants=(1, 2))
    ends: list[Array | None] = [np.array([v], np.float32) for v in (1, 9, 2)]
    yield Case("Range", ends, constants=(0, 1, 2))
    pair: list[Array | None] = [normal(3, 4), normal(5, 4, seed=1)]
    yield Case("CDist", pair, attributes={"metric": "euclidean"})
    yield Case("CDist", pair)
    yield Case("Inverse", [normal(2, 5, 5)], scale=8)
    yield Case("Inverse", [np.array([[0, 2], [3, 0]], np.float32)])
    yield Case("UnfoldTensor", [normal(2, 9)], attributes={"size": 3, "step": 2})


def attention() -> Iterator[Case]:
    weights: list[Array | None] = [X, normal(8, 24, seed=7) / 3, normal(24, seed=8)]
    given = {"num_heads": 2}
    for more in ({}, {"unidirectional": 1}, {"scale": 0.3}):
        yield Case("Attention", weights, attributes={**given, **more})
    masks = [
        np.array([3, 5], np.int32),
        np.array([3, 5, 0, 1], np.int32),
        TWO_ROWS,
        rng().integers(0, 2, (2, 5, 5)).astype(np.int32),
    ]
    for mask in masks:
        yield Case("Attention", [*weights, mask], attributes=given)
    past = normal(2, 2, 2, 3, 4)
    yield Case("Attention", [*weights, None, past], 2, {**given, "unidirectional": 1})
    yield Case("Attention", [*weights, None, None, normal(1, 2, 5, 5)], attributes=given)
    qkv: list[Array | None] = [normal(2, 3, 8), normal(2, 5, 8, seed=1), normal(2, 5, 6, seed=2)]
    yield Case("MultiHeadAttention", qkv, attributes=given)
    yield Case("MultiHeadAttention", [*qkv, normal(22)], attributes=given)
    yield Case("MultiHeadAttention", [*qkv, None, TWO_ROWS], attributes=given)
    yield Case("MultiHeadAttention", [*qkv, None, None, normal(2, 2, 3, 5)], attributes=given)
    heads = [normal(2, 3, 8), normal(2, 2, 5, 4), normal(2, 2, 5, 4, seed=1)]
    yield Case("MultiHeadAttention", [*heads], attributes=given)
    qkv = [normal(2, 3, 8), normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)]
    pasts = [normal(2, 2, 4, 4), normal(2, 2, 4, 4, seed=1)]
    yield Case("MultiHeadAttention", [*qkv, None, None, None, *pasts], 3, given)


def rotations() -> Iterator[Case]:
    caches: list[Array | None] = [np.cos(normal(16, 2)), np.sin(normal(16, 2))]
    first, places = np.array([3], np.int64), rng().integers(0, 16, (2, 5))
    for turns in (0, 1):
        given = {"interleaved": turns}
        yield Case("RotaryEmbedding", [normal(2, 5, 8), first, *caches], attributes=given)
        yield Case("RotaryEmbedding", [normal(2, 5, 8), places, *caches], attributes=given)
        yield Case("RotaryEmbedding", [normal(2, 2, 5, 4), first, *caches], attributes=given)
        part = {**given, "num_heads": 2, "rotary_embedding_dim": 4}
        yield Case("RotaryEmbedding", [normal(2, 5, 12), first, *caches], attributes=part)


def grouped() -> Iterator[Case]:
    heads = {"num_heads": 4, "kv_num_heads": 2}
    ends = [np.array([4, 4], np.int32), np.array(5, np.int32)]
    qkv = [normal(2, 5, 64), normal(2, 5, 32, seed=1), normal(2, 5, 32, seed=2)]
    prompt: list[Array | None] = [*qkv, None, None, *ends]
    for more in ({}, {"local_window_size": 2}, {"scale": 0.4}, {"softcap": 2.0}):
        yield Case("GroupQueryAttention", prompt, 3, {**heads, **more})
    packed: list[Array | None] = [normal(2, 5, 128), None, None, None, None, *ends]
    yield Case("GroupQueryAttention", packed, 3, heads)
    caches = [np.cos(normal(16, 8)), np.sin(normal(16, 8))]
    for turns in (0, 1):
        given = {**heads, "do_rotary": 1, "rotary_interleaved": turns}
        yield Case("GroupQueryAttention", [*prompt, *caches], 3, given)
        step = [normal(2, 1, 64), normal(2, 1, 32, seed=1), normal(2, 1, 32, seed=2)]
        past = [normal(2, 2, 6, 16), normal(2, 2, 6, 16, seed=3)]
        ends = [np.array([6, 6], np.int32), np.array(7, np.int32)]
        yield Case("GroupQueryAttention", [*step, *past, *ends, *caches], 3, given)


def number(value: float, kind: Any = np.float32) -> Array:
    return np.array(value, kind)


def quantised() -> Iterator[Case]:
    for kind in (np.uint8, np.int8):
        zero = [number(z, kind) for z in range(8)]
        lowest = number(np.iinfo(kind).min, kind)
        a, b = bytes_of(2, 3, 4, dtype=kind), bytes_of(4, seed=1, dtype=kind)
        x = [a, number(0.03), zero[5]]
        for op, scale in (("QLinearAdd", 0.07), ("QLinearMul", 0.1)):
            inputs = [*x, b, number(0.05), zero[3], number(scale), zero[7]]
            yield Case(op, inputs, steps=1)
        fine = [number(1 / 256), lowest]
        yield Case("QLinearLeakyRelu", [*x, number(0.03), zero[3]], 1, {"alpha": 0.2}, steps=1)
        yield Case("QLinearSigmoid", [*x, *fine], steps=1)
        yield Case("QLinearSoftmax", [*x, *fine], 1, {"opset": 13, "axis": -1}, steps=1)
        yield Case("QLinearSoftmax", [*x, *fine], 1, {"opset": 11, "axis": 1}, steps=1)
        inputs = [number(0.04), zero[3], *x, a, number(0.05), zero[1]]
        yield Case("QLinearConcat", inputs, 1, {"axis": 1}, steps=1)
        image = [bytes_of(1, 3, 6, 5, dtype=kind), number(0.03), zero[5], number(0.03), zero[4]]
        pool: dict[str, Any] = {"kernel_shape": [2, 2]}
        yield Case("QLinearAveragePool", [*image], 1, {**pool, "pads": [1, 0, 0, 1]}, steps=1)
        for last in (0, 1):
            place = {"channels_last": last}
            yield Case("QLinearAveragePool", [*image], 1, {**pool, **place}, steps=1)
            yield Case("QLinearGlobalAveragePool", [*image], 1, place, steps=1)
        where = rng().integers(0, 2, (2, 3, 4)).astype(bool)
        inputs = [where, *x, a[::-1].copy(), number(0.05), zero[4], number(0.05), zero[7]]
        yield Case("QLinearWhere", inputs, steps=1)
        yield Case("QuantizeLinear", [normal(3, 4), number(0.02), zero[3]])
        yield Case("DequantizeLinear", [*x])
        inputs = [a, normal(3), bytes_of(3, dtype=kind)]
        yield Case("DequantizeLinear", inputs, 1, {"axis": 1})


def quantised_products() -> Iterator[Case]:
    a, b = bytes_of(3, 5), bytes_of(5, 4, dtype=np.int8)
    low, one = number(5, np.uint8), number(1, np.int8)
    shift = rng().integers(-99, 99, 4).astype(np.int32)
    inputs = [a, number(0.03), low, b, number(0.02), one, shift, number(0.5), number(100, np.uint8)]
    yield Case("QGemm", [*inputs], 1, {"alpha": 1.0}, steps=1)
    columns = [b.T.copy(), np.abs(normal(4)) / 10, np.zeros(4, np.int8), shift]
    inputs = [a, number(0.03), low, *columns]
    yield Case("QGemm", [*inputs], 1, {"alpha": 1.0, "transB": 1}, length=5, scale=10)
    x = normal(2, 3, 5)
    yield Case("DynamicQuantizeMatMul", [x, b, number(0.02)], length=5, scale=4)
    more = [np.abs(normal(4)), bytes_of(4, dtype=np.int8), normal(4)]
    yield Case("DynamicQuantizeMatMul", [x, b, *more], length=5, scale=100)
    scales = [number(0.02), np.abs(normal(4))]
    for rest in ([], [low], [low, one, normal(4)]):
        yield Case("MatMulIntegerToFloat", [a, b, *scales, *rest], length=5, scale=30)
    weights = [bytes_of(8, 24, dtype=np.int8), normal(24), number(0.01), number(0.01)]
    zeros = [number(128, np.uint8), number(0, np.int8)]
    given = {"num_heads": 2}
    yield Case("QAttention", [bytes_of(2, 5, 8), *weights, None, *zeros], 1, given)
    ends = np.array([3, 5], np.int32)
    given = {"num_heads": 2, "unidirectional": 1}
    yield Case("QAttention", [bytes_of(2, 5, 8), *weights, ends, *zeros], 1, given)
    tables = [bytes_of(11, 8), bytes_of(7, 8), bytes_of(2, 8), bytes_of(8), bytes_of(8)]
    quants = [number(0.01)] * 5 + [number(128, np.uint8)] * 5
    inputs_ = [IDS, KINDS, *tables, None, *quants]
    yield Case("QEmbedLayerNormalization", inputs_, 2, {"epsilon": 1e-5})
    pair = [bytes_of(3, 4, dtype=np.int16), bytes_of(4, 2, dtype=np.int16)]
    yield Case("MatMulInteger16", [*pair])
    inputs = [bytes_of(1, 6, 6, 4), number(0.03), low, bytes_of(8, 4, 3, 3, dtype=np.int8)]
    inputs += [np.abs(normal(8)) / 50, np.zeros(8, np.int8), number(0.5), number(100, np.uint8)]
    inputs += [rng().integers(-99, 99, 8).astype(np.int32)]
    given = {"channels_last": 1}
    yield Case("QLinearConv", [*inputs], 1, given, tuple(range(1, 9)), steps=1)


CASES = [
    case
    for family in (
        activations,
        products,
        block_quantised,
        convolutions,
        norms,
        general,
        attention,
        rotations,
        grouped,
        quantised,
        quantised_products,
    )
    for case in family()
]
