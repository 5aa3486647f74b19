"""Building blocks that several convolutional families share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.models.inputs import make_image
from benchmarks.models.weights import calibrate_batchnorm, fill_weights

Activation = Callable[[], nn.Module]
CALIBRATION_IMAGES = 4


def conv_bn(  # noqa: PLR0913 - the parameters of a convolution
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: int | tuple[int, int] | None = None,
    activation: Activation | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return convolution without bias, batch norm and activation, padded to keep the size."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=eps)
    return nn.Sequential(conv, norm, *([] if activation is None else [activation()]))


def ready(model: nn.Module, size: int = 224, *, gain: float = 1.0) -> nn.Module:
    """Return an image model with seeded weights and calibrated batch norms."""
    import numpy as np

    fill_weights(model, gain=gain)
    images = make_image((CALIBRATION_IMAGES, 3, size, size), np.random.default_rng(7))
    return calibrate_batchnorm(model, torch.from_numpy(images))
