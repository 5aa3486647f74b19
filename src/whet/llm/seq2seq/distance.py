"""Scores by distance, as T5 has them: one for each head and bucket of distances."""

from __future__ import annotations

import numpy as np

from whet.llm.architecture import Array


def near_scores(
    table: Array, sizes: tuple[int, int], buckets: tuple[int, int], *, both_ways: bool
) -> Array:
    """Return scores of shape (1, heads, queries, keys); queries are at the last positions.

    Args:
        table: scores of shape (buckets, heads).
        sizes: numbers of queries and keys.
        buckets: number of buckets, and the distance from which all are in the last.
        both_ways: whether keys behind a query have buckets of their own.
    """
    queries, keys = sizes
    places = np.arange(keys - queries, keys)
    distance = np.arange(keys)[None, :] - places[:, None]
    scores = table[_bucket(distance, *buckets, both_ways)]
    return np.ascontiguousarray(scores.transpose(2, 0, 1)[None])


def _bucket(distance: Array, count: int, most: int, both_ways: bool) -> Array:
    """Return buckets: small distances have one each, larger ones share by their logarithm."""
    first: Array = np.zeros_like(distance)
    if both_ways:
        count //= 2
        first = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (far / np.float32(np.log(most / exact)) * np.float32(count - exact)).astype(int)
    return np.asarray(first + np.where(distance < exact, distance, np.minimum(far, count - 1)))
