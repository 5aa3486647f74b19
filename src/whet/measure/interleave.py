"""Timing several runtimes call by call, so that what disturbs one disturbs all.

Speed of a shared machine swings by a factor of two within seconds. Runs of A followed by runs of B
compare two moments; alternating single calls, in random order within each round, compares A and B.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from whet.errors import OptionError
from whet.measure.runner import Inputs, Runner
from whet.words import counted

TASKS = Path("/proc/self/task")
SETTLE_STEP_S = 0.002
SETTLE_LIMIT_S = 0.25
SETTLE_LOOKS = 2
SETTLE_BLIND_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: timed calls of each runner.
        duration_s: stop after the round that passes this time, even if rounds are left.
        warm_up: untimed calls of each runner before the first round.
        lead_in: untimed calls, at least, right before each timed call; they restore the caches
            and awake threads that a runner's own previous call leaves, as in an application
            that runs one model all the time. 0 times calls that come after a pause.
        lead_in_s: go on with these calls for this long; ignored if ``lead_in`` is 0. Woken
            threads may share a CPU for tens of milliseconds: on 2 threads, OpenVINO's median
            for ResNet-18 was 12.9 ms after one call, 7.7 after 40 ms of calls and 7.6 alone.
        settle: before a runner's turn, wait until no thread of this process runs any more.
            ONNX Runtime's pool spins for some 30 ms after a call (measured), and on a machine
            with as many CPUs as threads the next runner would pay for it.
        seed: of the order within the rounds.
    """

    rounds: int = 30
    duration_s: float | None = None
    warm_up: int = 3
    lead_in: int = 1
    lead_in_s: float = 0.04
    settle: bool = True
    seed: int = 0


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of every timed call; index i of every runner belongs to round i.

    Attributes:
        seconds: by runner name.
        wall_s: duration of the rounds.
        foreign_cpu: mean number of CPUs that other processes used meanwhile, stolen time
            included; None where the system does not tell.
    """

    seconds: dict[str, tuple[float, ...]]
    wall_s: float
    foreign_cpu: float | None


def _others_run() -> bool | None:
    """Return whether another thread of this process runs or waits for a CPU; None if unknown."""
    own = str(threading.get_native_id())
    try:
        tasks = [task for task in TASKS.iterdir() if task.name != own]
    except OSError:
        return None
    for task in tasks:
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # a thread that has just ended
        if state == "R":
            return True
    return False


def settle() -> None:
    """Wait until the other threads of this process sleep, at most ``SETTLE_LIMIT_S``."""
    if _others_run() is None:
        time.sleep(SETTLE_BLIND_S)
        return
    deadline, quiet = time.perf_counter() + SETTLE_LIMIT_S, 0
    while quiet < SETTLE_LOOKS and time.perf_counter() < deadline:
        time.sleep(SETTLE_STEP_S)
        quiet = 0 if _others_run() else quiet + 1


def _busy_cpu_s() -> tuple[float, float] | None:
    """Return the CPU seconds used by the whole machine and by this process."""
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return sum(times) - idle, time.process_time()


def _foreign_cpu(before: tuple[float, float] | None, wall_s: float) -> float | None:
    after = _busy_cpu_s()
    if before is None or after is None or wall_s <= 0:
        return None
    foreign = (after[0] - before[0]) - (after[1] - before[1])
    return round(max(0.0, foreign) / wall_s, 3)


def _lead_in(runner: Runner, inputs: Inputs, plan: Plan) -> None:
    until, calls = time.perf_counter() + plan.lead_in_s, 0
    while calls < plan.lead_in or (plan.lead_in and time.perf_counter() < until):
        runner.run(inputs)
        calls += 1


def _timed(runner: Runner, inputs: Inputs, plan: Plan) -> float:
    if plan.settle:
        settle()
    _lead_in(runner, inputs, plan)
    started = time.perf_counter()
    runner.run(inputs)
    return time.perf_counter() - started


def _rounds(plan: Plan) -> Iterator[int]:
    started = time.perf_counter()
    for index in range(plan.rounds):
        if plan.duration_s is not None and time.perf_counter() - started > plan.duration_s:
            return
        yield index


def measure_interleaved(
    runners: Sequence[Runner],
    inputs: Sequence[Inputs],
    plan: Plan = Plan(),
    progress: Callable[[str, int, int], None] | None = None,
) -> Samples:
    """Time runners that are already prepared, one call each per round, in random order.

    Args:
        runners: at least one, names unique.
        inputs: one feed or more; round i takes feed ``i % len(inputs)``, the same for all
            runners, so giving many keeps results from being found in a cache.
        plan: how often and in what state.
        progress: called as ``progress("measure", done, total)`` after each round.

    Raises:
        OptionError: no runner, no input, no round, or two runners with one name.
    """
    names = [runner.name for runner in runners]
    if not names or not inputs or plan.rounds < 1 or len(set(names)) < len(names):
        raise OptionError(
            f"cannot measure {names} with {counted(len(inputs), 'input')} in "
            f"{counted(plan.rounds, 'round')}",
            hint="give runners with different names, at least one input and one round",
        )
    for runner in runners:
        for _ in range(plan.warm_up):
            runner.run(inputs[0])
    order, shuffle = list(runners), random.Random(plan.seed)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    busy, started = _busy_cpu_s(), time.perf_counter()
    for index in _rounds(plan):
        if index % 2:
            order.reverse()  # as often in front of the others as behind them
        else:
            shuffle.shuffle(order)
        for runner in order:
            seconds[runner.name].append(_timed(runner, inputs[index % len(inputs)], plan))
        if progress is not None:
            progress("measure", index + 1, plan.rounds)
    wall_s = time.perf_counter() - started
    return Samples(
        seconds={name: tuple(made) for name, made in seconds.items()},
        wall_s=wall_s,
        foreign_cpu=_foreign_cpu(busy, wall_s),
    )
