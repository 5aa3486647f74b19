"""Seeded random weights under which every layer carries a signal of order one.

Comparing two runtimes proves something only if activations neither vanish nor blow up, so weights
are scaled by fan-in, and batch-norm statistics are those of a calibration batch, then disturbed so
that no layer is an identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

NORM_GAIN = (0.6, 1.4)
BIAS_DEVIATION = 0.1


def _fan_in(module: nn.Module, weight: torch.Tensor) -> int:
    """Return how many products one output element of the layer sums."""
    if isinstance(module, nn.ConvTranspose2d):
        stride = module.stride[0] * module.stride[1]
        return int(weight.shape[0] * weight[0, 0].numel() // stride)
    if type(module).__name__ == "Conv1D":  # the transposed linear layer of GPT-2
        return int(weight.shape[0])
    return int(weight[0].numel())


def _fill_norm(module: nn.Module, generator: torch.Generator) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, torch.Tensor):
        weight.uniform_(*NORM_GAIN, generator=generator)
    if isinstance(bias, torch.Tensor):
        bias.normal_(0.0, BIAS_DEVIATION, generator=generator)


def _fill_linear(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    weight = module.get_parameter("weight")
    weight.normal_(0.0, gain / math.sqrt(_fan_in(module, weight)), generator=generator)
    if isinstance(bias := module.bias, torch.Tensor):
        bias.normal_(0.0, BIAS_DEVIATION, generator=generator)


def _fill_recurrent(module: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters():
        fan_in = parameter.shape[-1] if name.startswith("weight") else 100
        parameter.normal_(0.0, 1.0 / math.sqrt(fan_in), generator=generator)


@torch.no_grad()
def fill_weights(model: nn.Module, *, gain: float = 1.0, seed: int = 0) -> nn.Module:
    """Fill all layers with seeded random values and return the model in evaluation mode.

    Args:
        model: any module of convolutions, linear layers, embeddings, norms and LSTMs.
        gain: standard deviation of a layer's output for unit input; sqrt(2) suits ReLU without
            normalisation.
        seed: of the one generator that all values come from.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        kind = type(module).__name__
        if "Norm" in kind:
            _fill_norm(module, generator)
        elif isinstance(module, nn.Embedding):
            deviation = 1.0 / math.sqrt(module.embedding_dim)
            module.weight.normal_(0.0, deviation, generator=generator)
        elif is_parametrized(module):
            continue  # its weight is computed from parameters of another meaning
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) or (
            kind == "Conv1D"
        ):
            _fill_linear(module, gain, generator)
        elif isinstance(module, nn.LSTM):
            _fill_recurrent(module, generator)
    return model.eval()


@torch.no_grad()
def calibrate_batchnorm(
    model: nn.Module,
    batch: torch.Tensor,
    *,
    seed: int = 0,
    forward: Callable[..., object] | None = None,
) -> nn.Module:
    """Set batch-norm statistics to those of ``batch``, disturbed, and return the model.

    Means move by a tenth of a deviation and variances by up to 30 %, as between training data and
    the data a model meets later.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    (forward or model)(batch)
    for norm in norms:
        norm.eval()
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        noise = torch.randn(mean.shape, generator=generator)
        mean += 0.1 * noise * variance.sqrt()
        variance *= torch.empty(variance.shape).uniform_(0.7, 1.3, generator=generator)
    return model.eval()
