"""Other runtimes, each behind the same protocol; none of them is a dependency of Whet."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from whet.errors import OptionError, WhetError, nearest
from whet.measure.runner import Inputs, Outputs, Runner, WhetRunner
from whet.options import Options


def _import_peer(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WhetError(
            f"{package} is not installed, so there is nothing to compare with",
            where=sys.executable,
            hint=f"pip install {package}, or leave it out of the comparison",
        ) from error


class OrtRunner:
    """ONNX Runtime on its CPU provider: all graph optimisations, threads spin (its default)."""

    name = "ort"

    def __init__(self, model: Path, threads: int) -> None:
        self.model = model
        self.threads = threads
        self.session: Any = None
        self.outputs: list[str] = []

    def prepare(self) -> None:
        """Create the session."""
        ort = _import_peer("onnxruntime", "onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(
            str(self.model), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Inputs) -> Outputs:
        """Run once and return all outputs by name."""
        return dict(zip(self.outputs, self.session.run(None, inputs), strict=True))


class OpenVinoRunner:
    """OpenVINO on the CPU: latency hint, one stream, arithmetic in ``f32`` or ``bf16``."""

    name = "openvino"

    def __init__(self, model: Path, threads: int, precision: str = "f32") -> None:
        self.model = model
        self.threads = threads
        self.precision = precision
        self.request: Any = None
        self.outputs: list[str] = []

    def prepare(self) -> None:
        """Compile the model."""
        openvino = _import_peer("openvino", "openvino")
        compiled = openvino.Core().compile_model(
            str(self.model),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": self.precision,
                "INFERENCE_NUM_THREADS": self.threads,
            },
        )
        self.request = compiled.create_infer_request()
        self.outputs = [port.get_any_name() for port in compiled.outputs]

    def run(self, inputs: Inputs) -> Outputs:
        """Run once and return copies of all outputs by name."""
        results = self.request.infer(inputs, share_inputs=True, share_outputs=False)
        return {name: np.asarray(results[i]) for i, name in enumerate(self.outputs)}


class TorchRunner:
    """PyTorch, eager or through ``torch.compile``.

    Args:
        load: returns the module in evaluation mode; its arguments are the inputs in order.
        threads: of PyTorch's own pool, a process-wide setting.
        outputs: names for what the module returns.
        compiled: wrap the module in ``torch.compile``.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        threads: int,
        outputs: tuple[str, ...],
        *,
        compiled: bool = False,
    ) -> None:
        self.name = "torch.compile" if compiled else "torch"
        self.load = load
        self.threads = threads
        self.outputs = outputs
        self.compiled = compiled
        self.module: Any = None
        self.torch: Any = None

    def prepare(self) -> None:
        """Build the module; what ``torch.compile`` does happens in the first run."""
        self.torch = _import_peer("torch", "torch")
        self.torch.set_num_threads(self.threads)
        self.module = self.load()
        if self.compiled:
            # Processes that wait for code to compile take a CPU from whoever runs after it.
            inductor: Any = _import_peer("torch._inductor.config", "torch")
            inductor.compile_threads = 1
            self.module = self.torch.compile(self.module, dynamic=False)

    def run(self, inputs: Inputs) -> Outputs:
        """Run once and return all outputs by name."""
        with self.torch.inference_mode():
            result = self.module(*(self.torch.from_numpy(array) for array in inputs.values()))
        tensors = result if isinstance(result, tuple | list) else (result,)
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, tensors, strict=True)}


def _whet(model: Path, threads: int) -> Runner:
    return WhetRunner(model, Options(threads=threads))


# From a file and a thread count to a runner; PyTorch is not here, as it starts from a module.
FILE_RUNNERS: dict[str, Callable[[Path, int], Runner]] = {
    "whet": _whet,
    "ort": OrtRunner,
    "openvino": OpenVinoRunner,
}


def file_runner(name: str, model: Path, threads: int) -> Runner:
    """Return the named runtime's runner for a model file.

    Raises:
        OptionError: no runtime has that name.
    """
    if name not in FILE_RUNNERS:
        raise OptionError(f"no runtime is called {name!r}", hint=nearest(name, FILE_RUNNERS))
    return FILE_RUNNERS[name](model, threads)
