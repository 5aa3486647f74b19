"""Trials in child processes, so that a crash, a hang or a flood of memory ends a child alone."""

from __future__ import annotations

import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import psutil

MODULE = "whet.tests.fuzz"
OK, REFUSED, BUG, CRASH, HANG = "ok", "refused", "bug", "crash", "hang"
BAD = frozenset({BUG, CRASH, HANG})
_WALL_FACTOR = 10
"""A child that waits for ever uses no CPU; one on a busy machine may wait for long."""


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        seed: what the trial was made from.
        status: ``ok``, ``refused`` (a clear error), ``bug``, ``crash`` or ``hang``.
        detail: the error, or what differs.
    """

    seed: int
    status: str
    detail: str


class Trial(Protocol):
    """One trial from a seed: a status and a detail."""

    def __call__(self, seed: int) -> tuple[str, str]:
        """Run the trial."""


def serve(trial: Trial, memory_bytes: int) -> None:
    """Run the trials whose seeds come in on standard input, one a line, and answer in kind."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        status, detail = trial(int(line))
        answers.write(f"{status}\t{detail.encode('unicode_escape').decode()}\n")
        answers.flush()


class Child:
    """A process that runs trials, started again when one ends it or takes too long."""

    def __init__(self, arguments: list[str], timeout_s: float) -> None:
        self._command = [sys.executable, "-m", MODULE, *arguments, "--serve"]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    def run(self, seed: int) -> Outcome:
        """Run one trial."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        process.stdin.write(f"{seed}\n")
        process.stdin.flush()
        line = self._answer(process)
        if line:
            status, _, detail = line.rstrip("\n").partition("\t")
            return Outcome(seed, status, detail.encode().decode("unicode_escape"))
        self.close()
        if line is None:
            return Outcome(seed, HANG, f"no answer in {self._timeout_s} s of CPU time")
        return Outcome(seed, CRASH, f"the process ended with {process.returncode}")

    def _answer(self, process: subprocess.Popen[str]) -> str | None:
        """Return a line, an empty one at the end of the process, ``None`` when time is up.

        The limit counts CPU time, so that other work on the machine makes no hang.
        """
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stream = process.stdout
        assert stream is not None
        threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
        used, begin = _cpu_s(process.pid), time.monotonic()
        while time.monotonic() - begin < self._timeout_s * _WALL_FACTOR:
            try:
                return lines.get(timeout=1.0)
            except queue.Empty:
                if _cpu_s(process.pid) - used > self._timeout_s:
                    break
        return None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, 0 if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def run_trials(
    arguments: list[str], seeds: Iterable[int], *, jobs: int, timeout_s: float
) -> Iterator[Outcome]:
    """Run trials in several processes and yield what becomes of them, as it comes.

    Args:
        arguments: of this package's command line, to say which trials.
        seeds: one for each trial.
        jobs: processes.
        timeout_s: for one trial.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    for seed in seeds:
        todo.put(seed)

    def work() -> None:
        child = Child(arguments, timeout_s)
        try:
            while True:
                done.put(child.run(todo.get_nowait()))
        except queue.Empty:
            pass
        finally:
            child.close()
            done.put(None)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    left = jobs
    while left:
        outcome = done.get()
        if outcome is None:
            left -= 1
        else:
            yield outcome
