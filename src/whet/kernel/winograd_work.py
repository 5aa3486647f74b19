"""The size of a 3x3 convolution that Winograd's algorithm may compute."""

from __future__ import annotations

from dataclasses import dataclass

from whet.kernel.winograd import FILTERINGS
from whet.kernel.winograd_filtering import Filtering


@dataclass(frozen=True, slots=True)
class Convolution:
    """The size of a 3x3 convolution: output pixels, input and output channels, stride."""

    images: int
    rows: int
    cols: int
    depth: int
    filters: int
    stride: int = 1

    def filtering(self, size: int) -> Filtering:
        """Return how tiles of so many outputs along one side are filtered."""
        return FILTERINGS[size, self.stride]

    def span(self, size: int) -> int:
        """Return the products along one side of a tile of so many outputs."""
        return self.filtering(size).span

    def weights(self, size: int) -> int:
        """Return the bytes of all weights that tiles of so many outputs are multiplied by."""
        return 4 * self.filtering(size).stored * self.depth * self.filters
