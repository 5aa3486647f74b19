"""Images inside prompts: tokens of their own, and the features and positions that these stand for.

A feature of an image is a token below 0, made of the image's number and the feature's. Numbers
follow contents and are never given twice, so that pages of the cache are shared between prompts
with the same image, and never between others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.llm.architecture import Array

_MOST = 1 << 24
"""Features of an image."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An image behind the vision tower.

    Attributes:
        number: its own, among all contents.
        features: float32 [feature, width].
        grid: rows and columns of the features.
    """

    number: int
    features: Array
    grid: tuple[int, int]

    def tokens(self) -> list[int]:
        """Return the tokens that stand for the features."""
        first = -1 - self.number * _MOST
        return list(range(first, first - len(self.features), -1))


@dataclass(frozen=True, slots=True, eq=False)
class PromptImages:
    """The images of a prompt.

    Attributes:
        features: by the image's number.
        positions: of the prompt's tokens, [3, token]; ``None`` where they are counted on.
    """

    features: Mapping[int, Array]
    positions: Array | None = None

    def positions_at(self, start: int, count: int) -> Array:
        """Return positions [3, token] of tokens of the prompt, and of those that follow it."""
        places = np.arange(start, start + count)
        if self.positions is None:
            return np.broadcast_to(places, (3, count))
        known = self.positions.shape[1]
        behind = int(self.positions.max()) + 1 - known
        inside = self.positions[:, np.minimum(places, known - 1)]
        return np.asarray(np.where(places < known, inside, places + behind))


@dataclass(frozen=True, slots=True, eq=False)
class Pictured:
    """A prompt with features of images among its tokens."""

    tokens: list[int]
    images: PromptImages

    def __len__(self) -> int:
        """Return how many tokens there are."""
        return len(self.tokens)


def with_images(
    tokens: Sequence[int], images: Sequence[Encoded], marker: int, *, turned: bool
) -> Pictured:
    """Put the tokens of images in the place of their markers.

    Args:
        tokens: a prompt with as many markers as images.
        images: its images in order.
        marker: the token that stands for one.
        turned: whether features have positions by row and column.
    """
    places = [k for k, token in enumerate(tokens) if token == marker]
    found: list[int] = []
    begun = 0
    lines: list[Array] = []
    for place, image in zip([*places, len(tokens)], [*images, None], strict=True):
        before = list(tokens[begun:place])
        found += before
        lines.append(_counted(lines, len(before)))
        if image is not None:
            found += image.tokens()
            lines.append(_by_place(lines, image.grid))
        begun = place + 1
    features = {image.number: image.features for image in images}
    positions = np.concatenate(lines, axis=1) if turned else None
    return Pictured(found, PromptImages(features, positions))


def _next(lines: Sequence[Array]) -> int:
    return max((int(line.max()) + 1 for line in lines if line.size), default=0)


def _counted(lines: Sequence[Array], count: int) -> Array:
    return np.broadcast_to(np.arange(count) + _next(lines), (3, count))


def _by_place(lines: Sequence[Array], grid: tuple[int, int]) -> Array:
    rows, columns = np.indices(grid).reshape(2, -1)
    return np.stack([np.zeros_like(rows), rows, columns]) + _next(lines)


def feature_rows(
    ids: Array, sources: Sequence[tuple[int, PromptImages | None]], width: int
) -> dict[str, Array]:
    """Return the inputs of a step that images give.

    Args:
        ids: tokens of the step.
        sources: for each sequence, how many of the tokens are its own, and its images.
        width: elements of a feature.

    Returns:
        ``ids`` without features, ``places``, each token's row among ``features`` or -1, and
        ``features``, at least one row.
    """
    features: list[Array] = []
    first = 0
    for count, images in sources:
        part = ids[first : first + count]
        wanted = -1 - part[part < 0]
        first += count
        if not len(wanted):
            continue
        assert images is not None, "only prompts with images have tokens below 0"
        for number in dict.fromkeys((wanted // _MOST).tolist()):
            features.append(images.features[number][wanted[wanted // _MOST == number] % _MOST])
    seen = ids < 0
    return {
        "ids": np.where(seen, 0, ids),
        "places": np.where(seen, np.cumsum(seen) - 1, -1),
        "features": np.concatenate(features) if features else np.zeros((1, width), np.float32),
    }
