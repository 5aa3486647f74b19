"""Several requests at once: how many a second, and how long each takes."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from whet.errors import OptionError
from whet.measure.runner import Inputs, Outputs

Run = Callable[[Inputs], Outputs]

STABLE_CALLS = 8
STABLE_SHARE = 0.03
WARM_LIMIT_S = 3.0


class StreamTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement with requests at once.

    Attributes:
        streams: requests at once.
        seconds: duration of every request.
        wall_s: duration of the measurement.
        per_second: requests finished a second.
    """

    streams: int
    seconds: tuple[float, ...]
    wall_s: float
    per_second: float


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Calls in front of a measurement.

    Attributes:
        calls: how many.
        seconds: how long they took.
        first_s: the first of them.
        stable: whether two groups of calls in a row agreed before the time was up.
    """

    calls: int
    seconds: float
    first_s: float
    stable: bool


def warm_until_stable(run: Run, inputs: Sequence[Inputs]) -> WarmUp:
    """Call until the medians of two groups of calls agree within 3 %, at most 3 seconds."""
    durations: list[float] = []
    begin = time.perf_counter()
    stable = False
    while not stable and time.perf_counter() - begin < WARM_LIMIT_S:
        started = time.perf_counter()
        run(inputs[len(durations) % len(inputs)])
        durations.append(time.perf_counter() - started)
        last, before = durations[-STABLE_CALLS:], durations[-2 * STABLE_CALLS : -STABLE_CALLS]
        if len(before) == STABLE_CALLS:
            stable = abs(median(last) / median(before) - 1) < STABLE_SHARE
    return WarmUp(
        calls=len(durations),
        seconds=time.perf_counter() - begin,
        first_s=durations[0] if durations else 0.0,
        stable=stable,
    )


def measure_streams(
    run: Run, inputs: Sequence[Inputs], *, streams: int, duration_s: float
) -> StreamTimes:
    """Run requests in several threads at once.

    Args:
        run: one request; has to be safe to call from several threads.
        inputs: feeds; request i of all takes feed ``i % len(inputs)``.
        streams: requests at once.
        duration_s: no request begins after this time.

    Raises:
        OptionError: there are no streams or no inputs.
    """
    if streams < 1 or not inputs:
        raise OptionError(f"cannot measure {streams} streams with {len(inputs)} inputs")
    numbers = itertools.count()
    gate = threading.Barrier(streams + 1)
    durations: list[list[float]] = [[] for _ in range(streams)]
    failures: list[BaseException] = []

    def work(mine: list[float]) -> None:
        run(inputs[0])
        gate.wait()
        until = time.perf_counter() + duration_s
        while (begin := time.perf_counter()) < until:
            run(inputs[next(numbers) % len(inputs)])
            mine.append(time.perf_counter() - begin)

    def guarded(mine: list[float]) -> None:
        try:
            work(mine)
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)
            gate.abort()

    threads = [threading.Thread(target=guarded, args=(mine,)) for mine in durations]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        gate.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise next((f for f in failures if not isinstance(f, threading.BrokenBarrierError)),
                   failures[0])  # fmt: skip
    wall = time.perf_counter() - begin
    everything = tuple(s for mine in durations for s in mine)
    return StreamTimes(
        streams=streams, seconds=everything, wall_s=wall, per_second=len(everything) / wall
    )


def candidates(cpus: int) -> tuple[tuple[int, int], ...]:
    """Return pairs of threads a request and requests at once that fill no more than all CPUs."""
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < cpus] + [cpus]
    return tuple((t, s) for t in counts for s in counts if t * s <= cpus)
