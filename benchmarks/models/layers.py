"""Building blocks that several convolutional families share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.models.inputs import make_image
from benchmarks.models.weights import calibrate_batchnorm, fill_weights

Activation = Callable[[], nn.Module]
CALIBRATION_IMAGES = 4


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Return convolution without bias, batch norm and activation, padded to keep the size."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = ((height - 1) // 2, (width - 1) // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    extra = [] if activation is None else [activation()]
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *extra)


def ready(model: nn.Module, size: int = 224, *, gain: float = 1.0, eps: float = 1e-5) -> nn.Module:
    """Return an image model with seeded weights and calibrated batch norms."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    fill_weights(model, gain=gain)
    images = make_image((CALIBRATION_IMAGES, 3, size, size), np.random.default_rng(7))
    return calibrate_batchnorm(model, torch.from_numpy(images))
