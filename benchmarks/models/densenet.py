"""DenseNet-121 (Huang 2016): batch norm and ReLU come before each convolution."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.layers import ready

GROWTH = 32
BLOCKS = (6, 12, 24, 16)


def _norm_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv)


class DenseLayer(nn.Module):
    """Appends ``GROWTH`` new channels to its input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm_conv(inputs, 4 * GROWTH, 1), _norm_conv(4 * GROWTH, GROWTH, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C + GROWTH, H, W)."""
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    """Return DenseNet-121."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for index, depth in enumerate(BLOCKS):
        for _ in range(depth):
            layers.append(DenseLayer(channels))
            channels += GROWTH
        if index + 1 < len(BLOCKS):
            layers += [_norm_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Linear(channels, 1000)]
    return ready(nn.Sequential(*layers))
