"""MobileNetV2 (Sandler 2018) and MobileNetV3-large (Howard 2019)."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.layers import Activation, conv_bn, ready

# expansion, channels, repeats, stride
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# kernel, expanded channels, channels, squeeze-excite, hard swish, stride
V3_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class SqueezeExcite(nn.Module):
    """Channel attention: pool, reduce, expand, gate."""

    def __init__(
        self, channels: int, squeezed: int, activation: Activation, gate: Activation
    ) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel of (N, C, H, W)."""
        out: torch.Tensor = x * self.scale(x)
        return out


class Inverted(nn.Module):
    """An inverted residual: the input is added when the shape stays."""

    def __init__(self, body: nn.Sequential, *, add: bool) -> None:
        super().__init__()
        self.body = body
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        out: torch.Tensor = self.body(x)
        return x + out if self.add else out


def _v2_block(inputs: int, outputs: int, stride: int, expansion: int) -> Inverted:
    inner = inputs * expansion
    layers = [conv_bn(inputs, inner, activation=nn.ReLU6)] if expansion > 1 else []
    layers.append(conv_bn(inner, inner, 3, stride=stride, groups=inner, activation=nn.ReLU6))
    layers.append(conv_bn(inner, outputs, activation=None))
    return Inverted(nn.Sequential(*layers), add=stride == 1 and inputs == outputs)


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2, width 1.0."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, stride=2, activation=nn.ReLU6)]
    channels = 32
    for expansion, outputs, repeats, stride in V2_STAGES:
        for index in range(repeats):
            layers.append(_v2_block(channels, outputs, stride if index == 0 else 1, expansion))
            channels = outputs
    layers += [conv_bn(channels, 1280, activation=nn.ReLU6), nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Linear(1280, 1000)]
    return ready(nn.Sequential(*layers))


def round_channels(channels: float, divisor: int = 8) -> int:
    """Return the multiple of ``divisor`` nearest to ``channels``, never under 90 % of it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _v3_block(inputs: int, row: tuple[int, int, int, bool, bool, int]) -> Inverted:
    kernel, inner, outputs, squeeze, hard, stride = row
    activation: Activation = nn.Hardswish if hard else nn.ReLU
    layers: list[nn.Module] = []
    if inner != inputs:
        layers.append(conv_bn(inputs, inner, activation=activation))
    layers.append(conv_bn(inner, inner, kernel, stride=stride, groups=inner, activation=activation))
    if squeeze:
        layers.append(SqueezeExcite(inner, round_channels(inner / 4), nn.ReLU, nn.Hardsigmoid))
    layers.append(conv_bn(inner, outputs, activation=None))
    return Inverted(nn.Sequential(*layers), add=stride == 1 and inputs == outputs)


def mobilenet_v3_large() -> nn.Module:
    """Return MobileNetV3-large, width 1.0."""
    layers: list[nn.Module] = [conv_bn(3, 16, 3, stride=2, activation=nn.Hardswish)]
    channels = 16
    for row in V3_BLOCKS:
        layers.append(_v3_block(channels, row))
        channels = row[2]
    layers += [conv_bn(channels, 960, activation=nn.Hardswish), nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000)]
    return ready(nn.Sequential(*layers), eps=1e-3)
