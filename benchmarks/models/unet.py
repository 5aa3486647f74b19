"""U-Net (Ronneberger 2015) with padded convolutions and batch norm, 256x256, two classes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from benchmarks.models.layers import conv_bn, ready

SIZE = 256
WIDTHS = (32, 64, 128, 256, 512)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3))


class UNet(nn.Module):
    """Four levels down with max pooling, four up with transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        pairs = tuple(pairwise(WIDTHS))
        self.first = _double(3, WIDTHS[0])
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(_double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(_double(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(WIDTHS[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W) to class scores (N, 2, H, W)."""
        levels = [self.first(x)]
        for block in self.down:
            levels.append(block(self.pool(levels[-1])))
        out = levels.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            out = merge(torch.cat([levels.pop(), up(out)], 1))
        scores: torch.Tensor = self.last(out)
        return scores


def unet() -> nn.Module:
    """Return the segmentation network."""
    return ready(UNet(), SIZE)
