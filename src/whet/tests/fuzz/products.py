"""How random products, windows, norms and recurrences are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.tests.fuzz.draft import Draft, Generator, Proposal


def _new(draft: Draft, *shape: int) -> str:
    return draft.fresh(draft.numbers(shape, draft.dtype))


def mat_mul(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3, 4))
    depth = draft.of(x).shape[-1]
    shape = (depth,) if draft.likely(0.1) else (depth, draft.choice((1, 3, 8, 17)))
    pair = [x, _new(draft, *shape)]
    return Proposal("MatMul", pair)


def qlinear_mat_mul(draft: Draft) -> Proposal:
    """Propose a product of quantised numbers, with one scale a tensor."""
    kind, depth = draft.choice(("uint8", "int8")), draft.integer(1, 8)
    sides = (draft.integer(1, 5), depth), (depth, draft.integer(1, 9))
    a, b = (draft.fresh(draft.numbers(shape, kind)) for shape in sides)
    # An even zero point: whether ties are rounded before or after it is added then does not show.
    scale, zero = draft.parameter(0.5, "float32"), draft.parameter(2 * draft.integer(0, 2), kind)
    return Proposal("QLinearMatMul", [a, scale, zero, b, scale, zero, scale, zero])


def gemm(draft: Draft) -> Proposal:
    x = draft.some(rank=2)
    flips = [draft.integer(0, 1) for _ in range(2)]
    depth, cols = draft.of(x).shape[0 if flips[0] else 1], draft.choice((1, 5, 16))
    w = _new(draft, *((cols, depth) if flips[1] else (depth, cols)))
    bias = [_new(draft, cols)] if draft.likely(0.6) else []
    scale = {"alpha": draft.choice((1.0, 0.5)), "beta": draft.choice((1.0, 2.0))}
    return Proposal("Gemm", [x, w, *bias], {"transA": flips[0], "transB": flips[1], **scale})


def windowed(op: str) -> Generator:
    """Propose convolutions; transposed, the reference adds one group's bias to all of them."""

    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(3, 4))
        channels, spatial = draft.of(x).shape[1], draft.of(x).ndim - 2
        group = draft.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
        kernel = [draft.choice((1, 2, 3)) for _ in range(spatial)]
        per_group = draft.integer(1, 3)
        shape = (group * per_group, channels // group) if op == "Conv" else (channels, per_group)
        biased = draft.likely(0.5) and (op == "Conv" or group == 1)
        bias = [_new(draft, group * per_group)] if biased else []
        window: dict[str, Any] = {
            "strides": [draft.choice((1, 1, 2)) for _ in kernel],
            "pads": [draft.integer(0, 1) for _ in range(2 * spatial)],
            "dilations": [draft.choice((1, 1, 2)) for _ in kernel],
        }
        w = draft.fresh(draft.numbers((*shape, *kernel), draft.dtype), constant=True)
        return Proposal(op, [x, w, *bias], {"group": group, "kernel_shape": kernel, **window})

    return make


def pooling(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(3, 4))
        kernel = [draft.choice((1, 2, 3)) for _ in range(draft.of(x).ndim - 2)]
        window = {
            "kernel_shape": kernel,
            "strides": [draft.choice((1, 1, 2)) for _ in kernel],
            "ceil_mode": draft.integer(0, 1),
        }
        return Proposal(op, [x], window)

    return make


def global_max_pool(draft: Draft) -> Proposal:
    """Propose a pool of images; the reference is wrong for other ranks."""
    return Proposal("GlobalMaxPool", [draft.some(rank=4)])


def grid_sample(draft: Draft) -> Proposal:
    """Propose samples of an image of floats; how integers are interpolated nobody says."""
    x = draft.some(rank=4)
    size = (draft.of(x).shape[0], draft.integer(1, 5), draft.integer(1, 5), 2)
    grid = draft.fresh(draft.numbers(size, draft.dtype) / np.array(2, draft.of(x).dtype))
    modes = ("linear", "nearest", "cubic")
    padding = draft.choice(("zeros", "border", "reflection"))
    extra = {"padding_mode": padding, "align_corners": draft.integer(0, 1)}
    return Proposal("GridSample", [x, grid], {"mode": draft.choice(modes), **extra})


def layer_norm(draft: Draft) -> Proposal:
    x = draft.some(rank=(2, 3))
    axis = draft.integer(0, draft.of(x).ndim - 1)
    shape = draft.of(x).shape[axis:]
    inputs = [x, _new(draft, *shape), *([_new(draft, *shape)] if draft.likely(0.5) else [])]
    return Proposal("LayerNormalization", inputs, {"axis": axis, "epsilon": 0.1})


def channel_norm(op: str, parameters: int) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(3, 4))
        channels = draft.of(x).shape[1]
        given = [_new(draft, channels) for _ in range(min(parameters, 3))]
        if parameters == 4:
            variance = np.abs(draft.numbers((channels,), draft.dtype)) + np.array(
                0.5, draft.of(x).dtype
            )
            given.append(draft.fresh(variance.astype(draft.of(x).dtype)))
        extra = {"num_groups": 1} if op == "GroupNormalization" else {}
        return Proposal(op, [x, *given], {"epsilon": 0.1, **extra})

    return make


def resize(draft: Draft) -> Proposal:
    x = draft.some(rank=4)
    scales = [1.0, 1.0, *(draft.choice((0.5, 1.0, 2.0, 1.5)) for _ in range(2))]
    mode = draft.choice(("nearest", "linear", "cubic"))
    way = draft.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    inputs = [x, "", draft.parameter(scales, "float32")]
    return Proposal("Resize", inputs, {"mode": mode, "coordinate_transformation_mode": way})


def recurrent(op: str, gates: int) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=3)
        width, hidden = draft.of(x).shape[2], draft.choice((1, 3, 8))
        ways = draft.choice((("forward", 1), ("reverse", 1), ("bidirectional", 2)))
        w = _new(draft, ways[1], gates * hidden, width)
        r = _new(draft, ways[1], gates * hidden, hidden)
        bias = [_new(draft, ways[1], 2 * gates * hidden)] if draft.likely(0.5) else []
        return Proposal(op, [x, w, r, *bias], {"hidden_size": hidden, "direction": ways[0]})

    return make
