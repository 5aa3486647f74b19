"""VGG-16 (Simonyan 2014), SqueezeNet 1.1 (Iandola 2016) and ShuffleNet v2 x1.0 (Ma 2018)."""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.models.layers import conv_bn, ready

RELU_GAIN = math.sqrt(2.0)
VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
SHUFFLE_STAGES = ((116, 4), (232, 8), (464, 4))


def vgg16() -> nn.Module:
    """Return VGG-16 without batch norm."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in VGG_STAGES:
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096)]
    layers += [nn.ReLU(), nn.Linear(4096, 1000)]
    return ready(nn.Sequential(*layers), gain=RELU_GAIN)


class Fire(nn.Module):
    """Squeeze with 1x1, expand with 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, 2 * expanded, H, W)."""
        squeezed = self.squeeze(x)
        return torch.cat([self.narrow(squeezed), self.wide(squeezed)], 1)


def squeezenet() -> nn.Module:
    """Return SqueezeNet 1.1."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64)]
    layers += [pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192)]
    layers += [Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    layers += [nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ready(nn.Sequential(*layers), gain=RELU_GAIN)


def _shuffle(x: torch.Tensor) -> torch.Tensor:
    """Interleave the two halves of the channels."""
    batch, channels, height, width = x.shape
    halves = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return halves.reshape(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the other half is convolved; with stride 2 both are."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.down = stride == 2
        source = inputs if self.down else half
        self.body = nn.Sequential(
            conv_bn(source, half),
            conv_bn(half, half, 3, stride=stride, groups=half, activation=None),
            conv_bn(half, half),
        )
        self.skip: nn.Module = nn.Identity()
        if self.down:
            self.skip = nn.Sequential(
                conv_bn(inputs, inputs, 3, stride=2, groups=inputs, activation=None),
                conv_bn(inputs, half),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        kept, convolved = (x, x) if self.down else x.chunk(2, dim=1)
        return _shuffle(torch.cat([self.skip(kept), self.body(convolved)], 1))


def shufflenet_v2() -> nn.Module:
    """Return ShuffleNet v2, width 1.0."""
    layers: list[nn.Module] = [conv_bn(3, 24, 3, stride=2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for width, depth in SHUFFLE_STAGES:
        for index in range(depth):
            layers.append(ShuffleUnit(channels, width, 2 if index == 0 else 1))
            channels = width
    layers += [conv_bn(channels, 1024), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ready(nn.Sequential(*layers, nn.Linear(1024, 1000)))
