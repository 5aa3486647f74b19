"""Building an architecture in PyTorch, and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.architectures.architecture import Architecture, Array, make_inputs
from benchmarks.models.weights import fill_weights

SEED = 7
OTHER_DEVIATION = 0.1
"""Of parameters that belong to no ordinary layer, such as class tokens and biases of positions."""


class Positional(nn.Module):
    """Calls a model with positional tensors and returns the wanted outputs as a tuple."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(spec.name for spec in architecture.inputs)
        self.wanted = architecture.outputs
        self.options = dict(architecture.call)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map the inputs, in the order of the table, to the outputs."""
        found = self.model(**dict(zip(self.names, tensors, strict=True)), **self.options)
        if self.wanted:
            return tuple(found[name] for name in self.wanted)
        return (found[0],)


def build(architecture: Architecture) -> nn.Module:
    """Return the seeded module in evaluation mode."""
    torch.manual_seed(SEED)
    kind = getattr(transformers, architecture.model)
    config = kind.config_class(**plain(architecture.config))
    model = kind(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fill_weights(model)
    _disturb(model, before)
    return Positional(model, architecture).eval()


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested configuration as new dictionaries and lists, which classes may change."""
    return {k: _plain(v) for k, v in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    return [_plain(v) for v in value] if isinstance(value, list) else value


@torch.no_grad()
def _disturb(model: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Give parameters that no layer kind filled random values: many start as zeros."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if torch.equal(parameter, before[name]) and parameter.is_floating_point():
            parameter += OTHER_DEVIATION * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def answers(
    module: nn.Module, architecture: Architecture
) -> list[tuple[dict[str, Array], list[Array]]]:
    """Return inputs and PyTorch's outputs at each of the table's sizes."""
    found = []
    for seed, sizes in enumerate(architecture.sizes):
        inputs = make_inputs(architecture, sizes, seed)
        outputs: Sequence[torch.Tensor] = module(*(torch.from_numpy(a) for a in inputs.values()))
        found.append((inputs, [o.numpy() for o in outputs]))
    return found
