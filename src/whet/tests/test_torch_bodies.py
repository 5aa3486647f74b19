"""Loops and branches as PyTorch's TorchScript exports them: their products are quantised."""

# mypy: disable-error-code="no-untyped-def"
# TorchScript reads comments about types, and takes arguments without one for tensors.

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.quantize.convert import convert_weights
from whet.quantize.static import Request
from whet.quantize.weights import WeightConfig

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A recurrence, and a product whose weight is turned in one of two cases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(64, 64)
        self.b = torch.nn.Linear(64, 64, bias=False)
        self.w = torch.nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x):
        """Return the last state times a matrix."""
        h = torch.zeros_like(x[:, 0])
        for t in range(x.size(1)):
            h = torch.tanh(self.a(x[:, t]) + self.b(h))
        return torch.matmul(h, self.w.t()) if bool(x.sum() > 0) else torch.matmul(h, self.w)


@pytest.fixture(scope="module")
def exported() -> tuple[Any, onnx.ModelProto]:
    """Return the module and its export, with an open batch and an open length."""
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.script(Net().eval())
        torch.onnx.export(
            module, (torch.randn(8, 5, 64),), file, dynamo=False, input_names=["x"],
            output_names=["y"], opset_version=18, dynamic_axes={"x": {0: "n", 1: "t"}},
        )  # fmt: skip
    return module, onnx.load_from_string(file.getvalue())


def test_its_products_are_quantised(exported: tuple[Any, onnx.ModelProto]) -> None:
    module, model = exported
    x = torch.randn(8, 5, 64, generator=torch.Generator().manual_seed(1))
    data = [x[:4].numpy(), -x[4:].numpy(), 3 * x[:4].numpy(), x[4:, :3].numpy()]
    static = whet.quantize(model, data)
    assert sorted(static.report.quantized.values()) == ["Gemm", "MatMul", "MatMul", "MatMul"]
    blocks = convert_weights(Request(model), WeightConfig(bits=8, form="matmulnbits"))
    assert blocks.report.converted == 4
    for made, error in ((static.model, 0.05), (blocks.model, 0.02)):
        program = whet.compile(made)
        for batch in (x, -x[:3], x[:1, :2]):
            right = module(batch).detach().numpy()
            found = program({"x": batch.numpy()})["y"]
            assert np.linalg.norm(found - right) < error * np.linalg.norm(right)
