"""What ``whet demo`` found out, as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from whet.cli import output, report
from whet.program.records import Stats
from whet.report.words import NOISY
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.statistics import Comparison, Noise, Summary

UNOPTIMISED, OPTIMISED, PEER = "unoptimised", "Whet", "ONNX Runtime"
# Largest relative error of a probability that rounding explains: 54 layers of float32 sums leave
# about 1e-5 (ONNX Runtime against onnx.reference), two different images differ by 1e-2 and more.
TOLERANCE = 1e-3
_GROUPS_SHOWN = 10
_NEXT = (
    ("whet inspect {file}", "what every kernel computes"),
    ("whet run {file} --input random", "one run"),
    ("whet compile your.onnx -o your.whet", "your own model"),
    ("whet bench your.onnx --against ort", "a comparison with ONNX Runtime"),
    ("whet doctor", "what this machine offers"),
)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the demonstration found out.

    Attributes:
        file: the compiled file.
        judge: what the output was compared with.
        error: largest relative error of a probability.
        noise: how steady the machine was.
        times: by column of the table.
        comparisons: the optimised model with each of the others.
        stats: of the compiled models, by column.
        compile_s: seconds that compiling took.
        load_s: seconds that loading the file took.
    """

    file: Path
    judge: str
    error: float
    noise: Noise
    times: dict[str, Summary]
    comparisons: tuple[Comparison, ...]
    stats: dict[str, Stats]
    compile_s: float
    load_s: float

    @property
    def correct(self) -> bool:
        """Whether the output agrees with the judge's."""
        return self.error <= TOLERANCE  # false for NaN too


def as_json(found: Findings) -> dict[str, Any]:
    """Return the findings as a JSON value."""
    import msgspec

    return {
        "file": str(found.file),
        "file_bytes": found.file.stat().st_size,
        "compile_s": found.compile_s,
        "load_s": found.load_s,
        "judge": found.judge,
        "relative_error": found.error,
        "tolerance": TOLERANCE,
        "correct": found.correct,
        "comparisons": msgspec.to_builtins(found.comparisons),
        "times": {name: msgspec.to_builtins(times) for name, times in found.times.items()},
        "stats": {name: report.stats_as_json(stats) for name, stats in found.stats.items()},
    }


def _rows(found: Findings) -> list[list[str]]:
    """Lay the findings out as the rows of the table."""
    times, stats = found.times.values(), found.stats.values()
    blank = [""] * (len(times) - len(stats))
    block = found.times[OPTIMISED].block
    shortest = [
        f"latency, shortest of {block}",
        *(output.format_ms(t.block_ms / 1e3) for t in times),
    ]
    return [
        *([shortest] if block > 1 else []),
        ["latency, median", *(output.format_ms(t.median_ms / 1e3) for t in times)],
        ["latency, best", *(output.format_ms(t.best_ms / 1e3) for t in times)],
        ["throughput", *(f"{1e3 / t.block_ms:.1f} /s" for t in times)],
        ["kernel launches", *(str(s.launches) for s in stats), *blank],
        ["intermediate memory", *(output.format_bytes(s.arena_bytes) for s in stats), *blank],
        ["weights", *(output.format_bytes(s.weight_bytes) for s in stats), *blank],
    ]


def _verdict(found: Comparison) -> str:
    """Say how another column compares with the optimised model, from the blocks of calls."""
    low, high = found.block_interval
    name = "Unoptimised, it" if found.peer == UNOPTIMISED else found.peer
    says = f"{name} takes {found.block_ratio:.2f} times as long ({low:.2f} to {high:.2f}"
    return f"{says}, {'blocks' if found.block > 1 else 'pairs'} of calls in turn)."


def print_findings(console: Console, found: Findings) -> None:
    """Print the findings for people."""
    threads = counted(found.stats[OPTIMISED].threads, "thread")
    title = f"ResNet-50, one image, float32, {threads}"
    console.print(output.table(["", *found.times], _rows(found), title=title))
    for comparison in found.comparisons:
        console.print(_verdict(comparison), soft_wrap=True)
    if found.noise == "noisy":
        console.print(NOISY)
    console.print("What was fused (kernels, and the operators that each computes):")
    groups = report.summarise_groups(found.stats[OPTIMISED].groups)
    for ops, count in groups[:_GROUPS_SHOWN]:
        console.print(f"  {count:>3} × {ops}", markup=False, soft_wrap=True)
    rest = sum(count for _, count in groups[_GROUPS_SHOWN:])
    if rest:
        console.print(f"  {rest:>3} {'other' if rest == 1 else 'others'}")
    verdict = "agrees with" if found.correct else "DIFFERS from"
    console.print(
        f"The output {verdict} {found.judge}'s: largest relative error of a probability "
        f"{found.error:.1e}, allowed {TOLERANCE:.0e}.",
        style="green" if found.correct else "red",
        soft_wrap=True,
    )
    size = output.format_bytes(found.file.stat().st_size)
    load = output.format_ms(found.load_s)
    console.print(f"Compiled in {found.compile_s:.1f} s, loaded in {load}.")
    console.print(f"The file: {found.file.resolve()} ({size})", markup=False, soft_wrap=True)
    console.print("Try next:")
    for command, purpose in _NEXT:
        line = command.format(file=found.file)
        console.print(f"  {line:<44}{purpose}", markup=False, soft_wrap=True)
