"""Weights in blocks: every bit as the package ``gguf`` reads them."""

from __future__ import annotations

import numpy as np
import pytest

from whet.kernel.block_formats import FORMATS, dequantized, read_blocks

gguf = pytest.importorskip("gguf")


def random_rows(name: str, rows: int, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Return random rows of bytes whose scales are numbers."""
    kind = FORMATS[name]
    data = rng.integers(0, 256, (rows, blocks, kind.group_bytes), np.uint8)
    places = {"Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,)}.get(name, (0, 2))
    for place in places:
        halves = rng.uniform(-0.02, 0.02, (rows, blocks, 1)).astype(np.float16)
        data[..., place : place + 2] = halves.view(np.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_are_read_as_gguf_does(name: str) -> None:
    data = random_rows(name, 7, 3, np.random.default_rng(1))
    wanted = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    assert np.array_equal(dequantized(FORMATS[name], data), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_codes_fit_their_bits(name: str) -> None:
    kind = FORMATS[name]
    blocks = read_blocks(kind, random_rows(name, 5, 2, np.random.default_rng(2)))
    assert blocks.codes.max() < 1 << kind.bits
    assert blocks.scales.shape == (5, blocks.codes.shape[1] * kind.spans)
