"""Inception v3 (Szegedy 2015), 299x299, without the auxiliary head used in training."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.layers import conv_bn, ready

SIZE = 299


def _valid(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return an unpadded 3x3 convolution with batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Branches(nn.Module):
    """Concatenates the channels of parallel branches."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the branches' channels side by side."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, outputs))


def _block_a(inputs: int, pool: int) -> Branches:
    return Branches(
        conv_bn(inputs, 64),
        nn.Sequential(conv_bn(inputs, 48), conv_bn(48, 64, 5)),
        nn.Sequential(conv_bn(inputs, 64), conv_bn(64, 96, 3), conv_bn(96, 96, 3)),
        _pooled(inputs, pool),
    )


def _block_b(inputs: int) -> Branches:
    return Branches(
        _valid(inputs, 384, 2),
        nn.Sequential(conv_bn(inputs, 64), conv_bn(64, 96, 3), _valid(96, 96, 2)),
        nn.MaxPool2d(3, 2),
    )


def _block_c(inputs: int, width: int) -> Branches:
    return Branches(
        conv_bn(inputs, 192),
        nn.Sequential(
            conv_bn(inputs, width), conv_bn(width, width, (1, 7)), conv_bn(width, 192, (7, 1))
        ),
        nn.Sequential(
            conv_bn(inputs, width),
            conv_bn(width, width, (7, 1)),
            conv_bn(width, width, (1, 7)),
            conv_bn(width, width, (7, 1)),
            conv_bn(width, 192, (1, 7)),
        ),
        _pooled(inputs, 192),
    )


def _block_d(inputs: int) -> Branches:
    return Branches(
        nn.Sequential(conv_bn(inputs, 192), _valid(192, 320, 2)),
        nn.Sequential(
            conv_bn(inputs, 192),
            conv_bn(192, 192, (1, 7)),
            conv_bn(192, 192, (7, 1)),
            _valid(192, 192, 2),
        ),
        nn.MaxPool2d(3, 2),
    )


def _fork(inputs: int) -> Branches:
    return Branches(conv_bn(inputs, 384, (1, 3)), conv_bn(inputs, 384, (3, 1)))


def _block_e(inputs: int) -> Branches:
    return Branches(
        conv_bn(inputs, 320),
        nn.Sequential(conv_bn(inputs, 384), _fork(384)),
        nn.Sequential(conv_bn(inputs, 448), conv_bn(448, 384, 3), _fork(384)),
        _pooled(inputs, 192),
    )


def inception_v3() -> nn.Module:
    """Return Inception v3."""
    stem = nn.Sequential(
        _valid(3, 32, 2),
        _valid(32, 32),
        conv_bn(32, 64, 3),
        nn.MaxPool2d(3, 2),
        conv_bn(64, 80),
        _valid(80, 192),
        nn.MaxPool2d(3, 2),
    )
    body = [_block_a(192, 32), _block_a(256, 64), _block_a(288, 64), _block_b(288)]
    body += [_block_c(768, width) for width in (128, 160, 160, 192)]
    body += [_block_d(768), _block_e(1280), _block_e(2048)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return ready(nn.Sequential(stem, *body, *head), SIZE, eps=1e-3)
