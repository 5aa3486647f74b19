"""A ResNet and a MobileNet in small, trained on scikit-learn's digits in seconds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

Array = np.ndarray[Any, Any]

SIZE = 16
TRAIN, CALIBRATE, TEST = 1000, 200, 597


def digits() -> tuple[Array, Array]:
    """Return images (1797, 1, 16, 16) from 0 to 1 and labels, in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    small = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    large = nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear")
    return large.numpy(), labels[order]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions and a sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Any) -> Any:
        """Return ``relu(F(x) + x)``."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; a sum where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.body = nn.Sequential(
            _conv(inputs, wide, 1), nn.ReLU6(), _conv(wide, wide, 3, stride, wide), nn.ReLU6(),
            _conv(wide, outputs, 1),
        )  # fmt: skip
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        """Return ``F(x)``, with x where that has the same shape."""
        return self.body(x) + x if self.same else self.body(x)


def resnet() -> nn.Module:
    """Return a residual network of nine convolutions."""
    return nn.Sequential(
        _conv(1, 16, 3), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    """Return a network of inverted residuals."""
    return nn.Sequential(
        _conv(1, 16, 3), nn.ReLU6(), Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1),
        Inverted(24, 40, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10),
    )  # fmt: skip


def train(
    net: nn.Module,
    images: Array,
    labels: Array,
    epochs: int = 6,
    *,
    seed: int = 0,
    rate: float = 6e-3,
) -> None:
    """Train with Adam, one cycle of the learning rate."""
    torch.manual_seed(seed)
    x, y = torch.tensor(images), torch.tensor(labels)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
    steps = epochs * (len(x) // 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for k in range(len(x) // 50):
            rows = order[k * 50 : k * 50 + 50]
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()


def make_hostile(net: nn.Sequential, channels: int = 3, factor: float = 100.0) -> None:
    """Let a few channels between two layers be larger by a factor, and the next layer divide.

    ReLU passes a positive factor, so the function stays the same.
    """
    with torch.no_grad():
        norm = net[0][1]
        norm.weight[:channels] *= factor
        norm.bias[:channels] *= factor
        block = net[2]
        block.first[0].weight[:, :channels] /= factor
        inner = block.first[1]
        inner.weight[:channels] *= factor
        inner.bias[:channels] *= factor
        block.second[0].weight[:, :channels] /= factor
        block.short = _Divide(channels, factor)


class _Divide(nn.Module):
    """Divides the first channels by a factor: a 1×1 depthwise convolution."""

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        weight = torch.ones(16, 1, 1, 1)
        weight[:channels] /= factor
        self.weight = nn.Parameter(weight)

    def forward(self, x: Any) -> Any:
        """Return x with the first channels divided."""
        return nn.functional.conv2d(x, self.weight, groups=16)


def export(net: nn.Module, example: Array) -> onnx.ModelProto:
    """Return a module as ONNX, with an open batch."""
    buffer = io.BytesIO()
    torch.onnx.export(
        net, (torch.tensor(example),), buffer, dynamo=False, input_names=["x"],
        output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, opset_version=18,
    )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())
