"""Dense layers of whole networks against the machine's limits, on one thread.

    python -m benchmarks.dense --models resnet50,vgg16,bert_base_128,vit_b16

:mod:`benchmarks.kernels` times a layer as a model of its own, whose input and output have the
layout of the file. Here the layers stand where networks have them, with the layout, the fused
neighbours and the cache that the compiler gives them there: the time is the least span of the
layer's launches over many profiled runs. Equal launches of a network are one row. The multiply-add
peak and the bandwidth are measured between the runs; the highest counts. Operations are those of
the direct algorithm: Winograd convolution may pass 100 %.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.profiling import open_model
from benchmarks.run import RESULTS, device_slug
from benchmarks.tables import markdown_head, markdown_row
from whet.measure.feeds import random_inputs
from whet.measure.machine import Limits, Machine, describe_machine, higher, measure_limits
from whet.measure.profile.launches import LaunchTime, profile_model

LARGE_FLOPS = 50e6
WANTED_SHARE = 0.8
RUNS_A_ROUND = 5
DENSE_OPS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """Launches of a network that compute the same.

    Attributes:
        kernel: the kernel that they share.
        ops: operator types that it computes.
        count: how many launches.
        flops: floating-point operations of each.
        traffic: bytes that each reads and writes at least.
        best_us: least span of the fastest.
    """

    kernel: str
    ops: tuple[str, ...]
    count: int
    flops: int
    traffic: int
    best_us: float

    def share_of_peak(self, limits: Limits) -> float:
        """Return the achieved rate over the multiply-add peak."""
        return self.flops / self.best_us / 1e3 / limits.gflops

    def share_of_roofline(self, limits: Limits) -> float:
        """Return the least time that the limits allow over the time taken."""
        least_ns = max(self.flops / limits.gflops, self.traffic / limits.read_gbytes)
        return least_ns / 1e3 / self.best_us


def is_dense(launch: LaunchTime) -> bool:
    """Whether a launch is a large dense convolution or product, and not attention."""
    ops = frozenset(launch.ops)
    return launch.flops > LARGE_FLOPS and bool(ops & DENSE_OPS) and "Softmax" not in ops


def measure(name: str, rounds: int) -> tuple[list[DenseLayer], Limits]:
    """Profile a network on one thread; returns its large dense layers and the machine's limits."""
    model = open_model(name, threads=1)
    feeds = random_inputs(model.inputs, {}, seed=0)
    limits, spans = measure_limits(threads=1), defaultdict(list)
    for _ in range(rounds):
        for launch in profile_model(model, feeds, runs=RUNS_A_ROUND).launches:
            if is_dense(launch):
                spans[launch.kernel].append(launch)
        limits = higher(limits, measure_limits(threads=1))
    layers = [
        DenseLayer(
            kernel=kernel,
            ops=launches[0].ops,
            count=len({launch.index for launch in launches}),
            flops=launches[0].flops,
            traffic=launches[0].bytes,
            best_us=min(launch.span_us for launch in launches),
        )
        for kernel, launches in spans.items()
    ]
    return layers, limits


def _row(name: str, layer: DenseLayer, limits: Limits) -> str:
    return markdown_row(
        [
            name,
            layer.kernel,
            " + ".join(layer.ops),
            str(layer.count),
            f"{layer.flops / 1e6:.0f}",
            f"{layer.best_us / 1e3:.3f}",
            f"{layer.flops / layer.best_us / 1e3:.0f}",
            f"{layer.share_of_peak(limits):.0%}",
            f"{layer.share_of_roofline(limits):.0%}",
        ]
    )


def section(name: str, rounds: int) -> tuple[list[str], int, int]:
    """Return a network's rows, how many launches there are and how many reach the wanted share."""
    layers, limits = measure(name, rounds)
    reached = sum(layer.count for layer in layers if layer.share_of_peak(limits) >= WANTED_SHARE)
    rows = [_row(name, layer, limits) for layer in layers]
    return rows, sum(layer.count for layer in layers), reached


def page(machine: Machine, names: list[str], rows: list[str], summary: list[str]) -> str:
    """Return the table as a page."""
    titles = ["network", "kernel", "operators", "launches", "MFLOP", "best ms"]
    titles += ["GFLOP/s", "of the peak", "of the roofline"]
    lines = [
        f"# Dense layers of networks on {machine.cpu} ({machine.llvm_cpu}), one thread, f32",
        "",
        f"Above {LARGE_FLOPS / 1e6:.0f} MFLOP; made by",
        f"`python -m benchmarks.dense --models {','.join(names)}`.",
        "",
        *markdown_head(titles),
    ]
    return "\n".join([*lines, *rows, "", *summary, ""])


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet50,vgg16,bert_base_128,vit_b16")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    names = given.models.split(",")
    rows, summary = [], []
    for name in names:
        found, launches, reached = section(name, given.rounds)
        rows += found
        share = f"{WANTED_SHARE:.0%} of the peak"
        summary.append(f"- {name}: {reached} of {launches} launches reach {share}.")
        print("\n".join([*found, summary[-1]]), flush=True)
    machine = describe_machine()
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{device_slug(machine)}.dense.md"
    path.write_text(page(machine, names, rows, summary))
    print(path)


if __name__ == "__main__":
    main()
