"""Neural operators that are made of others: rotations, losses, states, statistics, crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.tests.compiled_node import check_node

Array = np.ndarray[Any, np.dtype[Any]]
FLOATS = ("float32", "float64", "float16", "bfloat16")


def normal(*shape: int) -> Array:
    return generator(*shape).standard_normal(shape)


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 8), (1, 1, 1, 2), (3, 7, 2, 6)])
def test_rotary_embedding(interleaved: int, sizes: tuple[int, ...]) -> None:
    batch, heads, length, size = sizes
    x, angles = normal(*sizes), normal(batch, length, size // 2)
    flat = x.reshape(batch, length, heads * size)
    places = generator(7).integers(0, 11, (batch, length))
    table = normal(11, size // 2)
    turn: Any = {"interleaved": interleaved}
    runtime: Any = [["B", heads, "L", size], ["B", "L", size // 2], ["B", "L", size // 2]]
    check_node("RotaryEmbedding", x, angles, angles[::-1], shapes=runtime, dtypes=FLOATS, **turn)
    packed: Any = {**turn, "num_heads": heads}
    check_node("RotaryEmbedding", flat, table, table[::-1], places, **packed)
    if size > 2:
        part: Any = {**turn, "rotary_embedding_dim": 2}
        check_node("RotaryEmbedding", x, table[:, :1], table[:, 1:2], places, **part)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("sizes", [(3, 5), (1, 1, 1), (2, 7, 3, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(reduction: str, sizes: tuple[int, ...], weighted: bool) -> None:
    x = normal(*sizes)
    target = generator(3).integers(0, sizes[1], (sizes[0], *sizes[2:]))
    weight = np.abs(normal(sizes[1])) + 0.5 if weighted else None
    symbolic: Any = [["N", *sizes[1:]], ["N", *sizes[2:]]]
    form: Any = {"reduction": reduction}
    check_node("NegativeLogLikelihoodLoss", x, target, weight, shapes=symbolic, **form)
    ignoring: Any = {**form, "ignore_index": -100}
    target.flat[-1] = -100
    if target.size > 1:
        for dtype in FLOATS:
            check_node("SoftmaxCrossEntropyLoss", x, target, weight, dtypes=[dtype], **ignoring)


@pytest.mark.parametrize("sizes", [(2, 3, 5, 4), (1, 1, 1, 1), (1, 4, 2, 3)])
@pytest.mark.parametrize("past", [False, True])
def test_causal_convolution(sizes: tuple[int, ...], past: bool) -> None:
    batch, channels, length, taps = sizes
    x, w, bias = normal(batch, channels, length), normal(channels, 1, taps), normal(channels)
    state = normal(batch, channels, taps - 1) if past else None
    symbolic: Any = [["N", channels, "L"], None, None, ["N", channels, taps - 1] if past else None]
    check_node("CausalConvWithState", x, w, bias, state, shapes=symbolic, outputs=2, dtypes=FLOATS)
    form: Any = {"outputs": 2, "activation": "silu"}  # the reference has no double precision here
    check_node("CausalConvWithState", x, w, bias, state, shapes=symbolic, **form)


def test_batch_norm_while_training() -> None:
    for sizes in ((4, 3, 5, 2), (2, 1), (7, 5, 3)):
        count = sizes[1]
        given = [normal(*sizes), *(normal(count) for _ in range(3)), np.abs(normal(count))]
        symbolic: Any = [["N", *sizes[1:]]]
        form: Any = {"training_mode": 1, "momentum": 0.75, "outputs": 3}
        check_node("BatchNormalization", *given, shapes=symbolic, dtypes=FLOATS[:2], **form)


@pytest.mark.parametrize("wanted", [(4, 6), (5, 3), (1, 11), (7, 7)])
def test_center_crop_pad(wanted: tuple[int, int]) -> None:
    x, goal = normal(5, 7, 2), np.array(wanted, np.int64)
    symbolic: Any = [["H", "W", 2]]
    check_node("CenterCropPad", x, goal, shapes=symbolic, axes=[0, -2])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("dims", [(5,), (4, 7), (3, 1, 2)])
def test_transposed_convolution_with_weights_from_data(group: int, dims: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    rank = len(dims)
    x, w, bias = normal(2, 4, *dims), normal(4, 3, *(2 + k for k in range(rank))), normal(3 * group)
    strides, dilations = [2, 1, 3][:rank], [1, 2, 2][:rank]
    convolve = getattr(torch.nn.functional, f"conv_transpose{rank}d")

    def expected(*given: Array) -> list[Array]:
        tensors = (torch.tensor(a) for a in given)
        return [convolve(*tensors, stride=strides, groups=group, dilation=dilations).numpy()]

    form: Any = {"strides": strides, "dilations": dilations, "group": group, "fixed": set()}
    runtime: Any = [["N", 4, *("ABC"[:rank])]]
    check_node("ConvTranspose", x, w, bias, shapes=runtime, expected=expected, **form)
