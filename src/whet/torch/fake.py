"""Fake-quantised layers: they compute in float what integers will compute, and can be trained.

Rounding passes gradients on as if it were not there; a learned scale gets those of Esser et al.
(2020), an observed one follows moving averages of the extremes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from whet.errors import OptionError, UnsupportedError

_MOMENTUM = 0.9
_SMALLEST = 1e-8
_SHARES = tuple(1 - k / 40 for k in range(21))
"""Shares of the widest scale that a learned one may begin with."""


@dataclass(frozen=True, slots=True)
class QatConfig:
    """How modules are trained for integers.

    Attributes:
        weight_bits: 4 or 8; symmetric, one scale for each output channel.
        activation_bits: 8: uint8 with a zero point, one scale for each input of a layer.
        learned: whether scales of weights are trained, from those of least squared error on; else
            they follow the weights.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    learned: bool = False

    def __post_init__(self) -> None:
        """Reject grids that the export cannot write."""
        for name, valid in {"weight_bits": (4, 8), "activation_bits": (8,)}.items():
            if getattr(self, name) not in valid:
                raise OptionError(
                    f"{name} is {getattr(self, name)!r}", where=name,
                    hint=f"give {' or '.join(map(str, valid))}",
                )  # fmt: skip


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


class FakeActivation(nn.Module):
    """Rounds activations to 8 bits in a range that it observes while training."""

    low: torch.Tensor
    high: torch.Tensor
    seen: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def parameters_of_grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point."""
        scale = ((self.high - self.low) / self.steps).clamp(min=_SMALLEST)
        return scale, torch.round(-self.low / scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x on the grid."""
        if self.training:
            self._observe(x.detach())
        scale, zero = self.parameters_of_grid()
        q = round_through(x / scale) + zero
        made: torch.Tensor = (q.clamp(0, self.steps) - zero) * scale
        return made

    def _observe(self, x: torch.Tensor) -> None:
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        keep = _MOMENTUM if bool(self.seen) else 0.0
        self.low.copy_(keep * self.low + (1 - keep) * low)
        self.high.copy_(keep * self.high + (1 - keep) * high)
        self.seen.fill_(True)


class FakeWeight(nn.Module):
    """Rounds weights, with one scale for each output channel, learned or from the weights."""

    def __init__(self, weight: torch.Tensor, bits: int, *, learned: bool) -> None:
        super().__init__()
        self.most = 2 ** (bits - 1) - 1
        self.scale = nn.Parameter(self._nearest(weight.detach())) if learned else None

    def _nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scales of least squared error, at most those that keep every weight."""
        widest, best = self._observed(weight), self._observed(weight)
        least = torch.full_like(widest, torch.inf)
        for share in _SHARES:
            scale = widest * share
            wide = scale.reshape(-1, *[1] * (weight.ndim - 1))
            rounded = torch.round(weight / wide).clamp(-self.most, self.most) * wide
            error = (rounded - weight).square().flatten(1).sum(dim=1)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
        return best

    def _observed(self, weight: torch.Tensor) -> torch.Tensor:
        largest = weight.abs().flatten(1).amax(dim=1)
        return (largest / self.most).clamp(min=_SMALLEST)

    def current(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scales, one for each output channel."""
        if self.scale is None:
            return self._observed(weight.detach())
        return self.scale.abs().clamp(min=_SMALLEST)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return weights on the grid."""
        scale = self.current(weight).reshape(-1, *[1] * (weight.ndim - 1))
        if self.scale is not None:
            share = 1 / (self.most * weight[0].numel()) ** 0.5
            scale = scale * share + (scale - scale * share).detach()
        return round_through((weight / scale).clamp(-self.most, self.most)) * scale


class FakeLayer(nn.Module):
    """A Conv2d or Linear whose input and weight are rounded."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, config: QatConfig) -> None:
        super().__init__()
        self.layer = layer
        self.activation = FakeActivation(config.activation_bits)
        self.weight = FakeWeight(layer.weight, config.weight_bits, learned=config.learned)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer gives for rounded operands."""
        x, weight = self.activation(x), self.weight(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        made: torch.Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
        return made


def prepare_qat(module: nn.Module, config: QatConfig | None = None) -> nn.Module:
    """Replace every Conv2d and Linear of a module by a fake-quantised one, in place.

    A BatchNorm2d that follows a Conv2d in a ``Sequential`` is folded into it first, as integers
    will see it.

    Raises:
        UnsupportedError: it has no Conv2d and no Linear.
    """
    if not any(isinstance(child, nn.Conv2d | nn.Linear) for child in module.modules()):
        raise UnsupportedError(
            "the module has no Conv2d and no Linear", hint="there is nothing to train for integers"
        )
    _fold_norms(module)
    return _replaced(module, config or QatConfig())


def _fold_norms(module: nn.Module) -> None:
    for child in module.children():
        _fold_norms(child)
    if not isinstance(module, nn.Sequential):
        return
    parts = list(module.named_children())
    for (first, conv), (second, norm) in pairwise(parts):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            training = conv.training
            fused = nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())
            if fused.bias is not None:
                fused.bias.requires_grad_(True)  # the fusion made it from buffers
            setattr(module, first, fused.train(training))
            setattr(module, second, nn.Identity())


def _replaced(module: nn.Module, config: QatConfig) -> nn.Module:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return FakeLayer(module, config)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, config))
    return module


def fake_layers(module: nn.Module) -> dict[str, FakeLayer]:
    """Return the fake-quantised layers of a module by name."""
    found: dict[str, Any] = {}
    for name, child in module.named_modules():
        if isinstance(child, FakeLayer):
            found[name] = child
    return found
