"""Write small models that NNCF and PyTorch quantised, for the tests.

Needs ``torch``, ``torchao`` and ``nncf``.

    PYTHONPATH=src python scripts/write_quantised_models.py
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import nncf
import numpy as np
import onnx
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from whet.tests.foreign_models import FOLDER

SAMPLES = 32


class Convolutions(nn.Module):
    """A residual sum, a pool, a depthwise convolution, a head."""

    shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        """Return five numbers an image."""
        x = torch.relu(self.first(x))
        x = self.pool(torch.relu(x + self.second(x)))
        x = torch.relu(self.depthwise(x))
        x = nn.functional.hardswish(self.wide(x))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """A transformer's block."""

    shape = (6, 16)

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.qkvo = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Any) -> Any:
        """Return a value for each of x."""
        batch, length, width = x.shape
        y = self.norms[0](x)
        rows = (batch, length, self.heads, width // self.heads)
        q, k, v = (f(y).reshape(rows).transpose(1, 2) for f in self.qkvo[:3])
        attention = torch.softmax(q @ k.transpose(2, 3) / rows[3] ** 0.5, -1) @ v
        x = x + self.qkvo[3](attention.transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


def data(shape: tuple[int, ...]) -> list[Any]:
    """Return samples."""
    torch.manual_seed(1)
    return [torch.randn(1, *shape) for _ in range(SAMPLES)]


def exported(net: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a module as ONNX, by way of TorchScript."""
    file = io.BytesIO()
    torch.onnx.export(
        net, (torch.zeros(1, *shape),), file, dynamo=False, input_names=["x"],
        output_names=["y"], opset_version=17,
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def of_nncf(net: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model as NNCF quantises ONNX."""
    kind = nncf.ModelType.TRANSFORMER if isinstance(net, Block) else None
    samples = nncf.Dataset([{"x": sample.numpy()} for sample in data(shape)])
    return nncf.quantize(exported(net, shape), samples, subset_size=SAMPLES, model_type=kind)


def of_pt2e(net: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model as PyTorch quantises and exports a program."""
    example = (torch.zeros(1, *shape),)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(net, example).module(), quantizer)
    for sample in data(shape):
        prepared(sample)
    made = torch.export.export(convert_pt2e(prepared), example)
    return torch.onnx.export(
        made, example, dynamo=True, verbose=False, input_names=["x"], output_names=["y"]
    ).model_proto


def of_fx(net: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model as PyTorch quantises a traced module."""
    mapping = get_default_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_fx(copy.deepcopy(net), mapping, (torch.zeros(1, *shape),))
    for sample in data(shape):
        prepared(sample)
    return exported(quantize_fx.convert_fx(prepared), shape)


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out what says where nodes came from."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    for field in ("metadata_props", "doc_string", "functions"):
        model.ClearField(field)
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    return model


def models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Give names and models."""
    makers: tuple[Callable[..., onnx.ModelProto], ...] = (of_nncf, of_pt2e, of_fx)
    for build in (Convolutions, Block):
        torch.manual_seed(0)
        net = build().eval()
        for make in makers:
            with torch.no_grad():
                yield f"{make.__name__[3:]}_{build.__name__.lower()}", make(net, net.shape)


def main() -> None:
    """Write all models."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, model in models():
        onnx.save(stripped(model), FOLDER / f"{name}.onnx")
        print(name, np.round((FOLDER / f"{name}.onnx").stat().st_size / 1024, 1), "KiB")


if __name__ == "__main__":
    main()
