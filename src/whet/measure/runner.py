"""What the measuring engine needs of a runtime, and Whet as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from whet.options import Options

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = Mapping[str, Array]
Outputs = dict[str, Array]


class Runner(Protocol):
    """A model in one runtime.

    Attributes:
        name: what tables call it, unique in a measurement.
    """

    name: str

    def prepare(self) -> None:
        """Load or compile the model; called once, never timed with the runs."""

    def run(self, inputs: Inputs) -> Outputs:
        """Run once and return all outputs by name."""


@runtime_checkable
class Renewable(Protocol):
    """A runner that can go on in other memory: caches serve some places better than others."""

    def renew(self) -> None:
        """Let memory for intermediate results go; the next run takes new."""


class WhetRunner:
    """Whet, from an ONNX model, which is compiled, or from a compiled file, which is loaded."""

    def __init__(self, source: Path, options: Options, *, name: str = "whet") -> None:
        self.name = name
        self.source = source
        self.options = options
        self.model: Any = None

    def prepare(self) -> None:
        """Compile or load the model."""
        import whet

        if self.source.suffix == ".whet":
            self.model = whet.load(self.source)
        else:
            self.model = whet.compile(self.source, options=self.options)

    def run(self, inputs: Inputs) -> Outputs:
        """Run once and return all outputs by name."""
        outputs: Outputs = self.model(inputs)
        return outputs
