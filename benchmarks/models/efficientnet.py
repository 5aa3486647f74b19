"""EfficientNet-B0 (Tan 2019)."""

from __future__ import annotations

from torch import nn

from benchmarks.models.layers import conv_bn, ready
from benchmarks.models.mobilenet import Inverted, SqueezeExcite

# expansion, kernel, channels, repeats, stride
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def _block(inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> Inverted:
    inner = inputs * expansion
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(conv_bn(inputs, inner, activation=nn.SiLU))
    layers += [
        conv_bn(inner, inner, kernel, stride=stride, groups=inner, activation=nn.SiLU),
        SqueezeExcite(inner, inputs // 4, nn.SiLU, nn.Sigmoid),
        conv_bn(inner, outputs, activation=None),
    ]
    return Inverted(nn.Sequential(*layers), add=stride == 1 and inputs == outputs)


def efficientnet_b0() -> nn.Module:
    """Return EfficientNet-B0."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, stride=2, activation=nn.SiLU)]
    channels = 32
    for expansion, kernel, outputs, repeats, first_stride in STAGES:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            layers.append(
                _block(channels, outputs, expansion=expansion, kernel=kernel, stride=stride)
            )
            channels = outputs
    layers += [conv_bn(channels, 1280, activation=nn.SiLU), nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Linear(1280, 1000)]
    return ready(nn.Sequential(*layers))
