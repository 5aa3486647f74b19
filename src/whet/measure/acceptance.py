"""Whether a migrated model is accepted: what was measured against the targets given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from whet.words import counted


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has to reach; ``None`` asks for nothing.

    Attributes:
        latency_ms: median time of a call, at most.
        speedup: times of the other runtimes divided by ours, at least.
        memory_mib: weights and intermediate results, at most.
        compile_s: time to compile, at most.
    """

    latency_ms: float | None = None
    speedup: float | None = None
    memory_mib: float | None = None
    compile_s: float | None = None


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked.

    Attributes:
        name: what.
        target: in words.
        found: what was measured, in words.
        passed: whether it is reached.
    """

    name: str
    target: str
    found: str
    passed: bool


def judge(results: Mapping[str, Mapping[str, Any]], targets: Targets) -> tuple[Criterion, ...]:
    """Return every criterion that a migration is judged by.

    Args:
        results: what each step found, by its name; steps that could not run are missing.
        targets: what is asked.
    """
    found = [_supported(results["assess"])]
    if "verify" in results:
        found.append(_accurate(results["verify"]))
    if "bench" in results:
        found += _fast(results["bench"], targets)
    if "compile" in results:
        found += _small(results["compile"], targets)
    return tuple(found)


def accepted(criteria: tuple[Criterion, ...]) -> bool:
    """Tell whether all criteria are met."""
    return all(criterion.passed for criterion in criteria)


def _supported(assess: Mapping[str, Any]) -> Criterion:
    problems = assess["problems"]
    return Criterion(
        name="operators",
        target="all supported",
        found=f"not supported: {counted(len(problems), 'node')}" if problems else "all supported",
        passed=not problems,
    )


def _accurate(verify: Mapping[str, Any]) -> Criterion:
    wrong = [output["name"] for output in verify["outputs"] if output["breaches"]]
    return Criterion(
        name="accuracy",
        target="every output within its limits",
        found=f"beyond them: {', '.join(dict.fromkeys(wrong))}" if wrong else "within",
        passed=not wrong,
    )


def _fast(bench: Mapping[str, Any], targets: Targets) -> list[Criterion]:
    median = bench["times"]["whet"]["median_ms"]
    found = _at_most("latency", targets.latency_ms, median, ("ms", f"{median:.3f} ms, median"))
    for row in bench["comparisons"] if targets.speedup is not None else ():
        found.append(
            Criterion(
                name=f"speed against {row['peer']}",
                target=f"at least {targets.speedup:g} times as fast",
                found=f"{row['block_ratio']:.3f} times",
                passed=row["block_ratio"] >= targets.speedup,
            )
        )
    return found


def _small(compiled: Mapping[str, Any], targets: Targets) -> list[Criterion]:
    size = (compiled["weight_bytes"] + compiled["arena_bytes"]) / 2**20
    seconds = compiled["compile_s"]
    shown = f"{size:.2f} MiB of weights and intermediate results"
    return [
        *_at_most("memory", targets.memory_mib, size, ("MiB", shown)),
        *_at_most("time to compile", targets.compile_s, seconds, ("s", f"{seconds:.2f} s")),
    ]


def _at_most(
    name: str, most: float | None, value: float, words: tuple[str, str]
) -> list[Criterion]:
    """Return whether a figure is low enough, if that is asked; ``words`` are unit and figure."""
    if most is None:
        return []
    unit, shown = words
    target = f"at most {most:g} {unit}"
    return [Criterion(name=name, target=target, found=shown, passed=value <= most)]
