"""What a benchmark run asks for and finds, as it is written to JSON."""

from __future__ import annotations

import msgspec

from benchmarks.models.export import Exporter
from whet.measure.interleave import Plan
from whet.measure.machine import Limits, Machine
from whet.measure.memory import MemoryUse
from whet.measure.statistics import Comparison, Noise, Summary

OURS = "whet"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one number of threads, for a process of its own."""

    model: str
    exporter: Exporter
    threads: int
    runtimes: tuple[str, ...]
    plan: Plan
    cache: str
    memory: bool = True


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far outputs are from ONNX Runtime's.

    Attributes:
        passed: within the tolerance of the model's family, and nothing is NaN or infinite.
        worst: largest difference over the standard deviation of the reference output.
    """

    passed: bool
    worst: float


class RuntimeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime on one model.

    Attributes:
        error: why there are no numbers; empty if there are.
        prepare_s: loading or compiling in the measuring process; for Whet, loading the
            compiled file.
        compile_s: for Whet, compiling that file.
        gflops: counted operations over the median time.
        peak_share: ``gflops`` over the multiply-add peak of as many threads.
    """

    error: str = ""
    prepare_s: float = 0.0
    compile_s: float | None = None
    times: Summary | None = None
    gflops: float | None = None
    peak_share: float | None = None
    agreement: Agreement | None = None
    memory: MemoryUse | None = None


class ModelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one number of threads.

    Attributes:
        error: why nothing could be measured; empty otherwise.
        comparisons: Whet against each peer; empty without Whet.
    """

    model: str
    exporter: Exporter
    threads: int
    error: str = ""
    flops: int = 0
    limits: Limits | None = None
    noise: Noise | None = None
    foreign_cpu: float | None = None
    runtimes: dict[str, RuntimeResult] = {}
    comparisons: tuple[Comparison, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells results apart in a report."""
        return self.model, self.exporter, self.threads

    def closest_peer(self) -> Comparison | None:
        """Return the comparison with the peer that does best against Whet."""
        return min(self.comparisons, key=lambda c: c.ratio, default=None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results of one device."""

    machine: Machine
    plan: Plan
    results: tuple[ModelResult, ...]
