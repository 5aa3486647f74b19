"""How long threads of this process waited for a CPU that other programs had, as Linux counts it.

``/proc/self/task/*/schedstat`` has, for each thread, ns on a CPU and ns runnable without one.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

TASKS = Path("/proc/self/task")
CALM_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the system has counted so far.

    Attributes:
        ran: ns on a CPU, by thread.
        waited: ns of waiting for one, by thread.
    """

    ran: dict[str, int]
    waited: dict[str, int]


@dataclass(frozen=True, slots=True)
class Call:
    """One timed call.

    Attributes:
        seconds: duration.
        served_s: the same without the time that it waited for a CPU, where that is known: a call
            of one thread waits while its thread does. Of several threads, others go on meanwhile.
        calm: whether ``served_s`` is what the call takes on a free machine: all of its waiting is
            known, or there was next to none.
    """

    seconds: float
    served_s: float
    calm: bool


def read_clocks() -> Clocks:
    """Return what the system has counted; empty where it does not count."""
    ran, waited = {}, {}
    try:
        names = os.listdir(TASKS)
    except OSError:
        names = []
    for name in names:
        try:
            first, second, _ = (TASKS / name / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue  # a thread that has just ended, or a kernel that does not count
        ran[name], waited[name] = int(first), int(second)
    return Clocks(ran, waited)


def judge_call(seconds: float, before: Clocks, after: Clocks) -> Call:
    """Say what a call would have taken without waiting, from the clocks on both sides of it."""
    own = str(threading.get_native_id())
    ran, waited = (
        {name: max(0, value - old.get(name, 0)) / 1e9 for name, value in new.items()}
        for new, old in ((after.ran, before.ran), (after.waited, before.waited))
    )
    longest = max(waited.values(), default=0.0)
    alone = sum(ran.values()) - ran.get(own, 0.0) < CALM_SHARE * seconds
    if alone and 0 < longest < seconds:
        return Call(seconds, seconds - waited.get(own, 0.0), calm=True)
    return Call(seconds, seconds, calm=longest <= CALM_SHARE * seconds)
