"""ResNet (He 2015, the v1.5 strides that everybody runs) and ResNeXt (Xie 2016)."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.layers import conv_bn, ready

CLASSES = 1000


class Residual(nn.Module):
    """A residual block: body plus identity or 1x1 projection, then ReLU."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = conv_bn(inputs, outputs, 1, stride=stride, activation=None)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        out: torch.Tensor = self.relu(self.body(x) + self.skip(x))
        return out


def basic(inputs: int, width: int, stride: int) -> Residual:
    """Return the two-layer block of ResNet-18."""
    body = nn.Sequential(
        conv_bn(inputs, width, 3, stride=stride), conv_bn(width, width, 3, activation=None)
    )
    return Residual(body, inputs, width, stride)


def bottleneck(inputs: int, width: int, stride: int, groups: int = 1) -> Residual:
    """Return the 1x1, 3x3, 1x1 block; grouped convolutions are twice as wide (32 groups of 4)."""
    inner, outputs = width * (2 if groups > 1 else 1), width * 4
    body = nn.Sequential(
        conv_bn(inputs, inner, 1),
        conv_bn(inner, inner, 3, stride=stride, groups=groups),
        conv_bn(inner, outputs, 1, activation=None),
    )
    return Residual(body, inputs, outputs, stride)


def _resnet(depths: tuple[int, ...], *, bottlenecks: bool, groups: int = 1) -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            if bottlenecks:
                layers.append(bottleneck(channels, width, stride, groups))
            else:
                layers.append(basic(channels, width, stride))
            channels = width * (4 if bottlenecks else 1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return ready(nn.Sequential(*layers))


def resnet18() -> nn.Module:
    """Return ResNet-18."""
    return _resnet((2, 2, 2, 2), bottlenecks=False)


def resnet50() -> nn.Module:
    """Return ResNet-50."""
    return _resnet((3, 4, 6, 3), bottlenecks=True)


def resnext50() -> nn.Module:
    """Return ResNeXt-50 (32x4d)."""
    return _resnet((3, 4, 6, 3), bottlenecks=True, groups=32)
