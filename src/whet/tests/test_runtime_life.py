"""Threads and memory of models: they start late, sleep, stop, survive forks and exits."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from whet.errors import ArtifactError, OptionError, ResourceError
from whet.program import context
from whet.runtime.load import from_memory
from whet.runtime.model import CompiledModel
from whet.runtime.state import State
from whet.tests.toys import CHUNK, make_model, make_parts, make_program, random_steps, simulate

CHUNKS = 9
STEPS = random_steps(np.random.default_rng(4), 20, 2)


def _make(threads: int) -> CompiledModel:
    return make_model(make_program(STEPS, [21], chunks=CHUNKS, threads=threads))


def _agrees(model: CompiledModel, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    given = {n: rng.integers(-9, 9, (CHUNKS, CHUNK)) for n in ("x", "y")}
    want = simulate(STEPS, [given["x"], given["y"]])[21]
    return bool(np.array_equal(model(given)["o21"].reshape(-1), want))


def _helpers() -> int:
    return sum(t.name.startswith("whet-") for t in threading.enumerate())


def test_threads_end_with_the_model() -> None:
    gc.collect()
    before = _helpers()
    model = _make(3)
    assert _helpers() == before
    assert _agrees(model, 0)
    assert _helpers() == before + 2
    del model
    gc.collect()
    assert _helpers() == before


def _resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4


def test_models_do_not_leak() -> None:
    program = make_program(STEPS, [21], chunks=CHUNKS, threads=2)
    for k in range(60):
        assert _agrees(make_model(program), k)
        if k == 20:
            gc.collect()
            start, files = _resident_kib(), len(os.listdir("/proc/self/fd"))
    gc.collect()
    assert _resident_kib() - start < 4096
    assert len(os.listdir("/proc/self/fd")) <= files


@pytest.mark.parametrize("spin_ns", [0, 1, 5000])
def test_sleeping_threads_are_woken(spin_ns: int) -> None:
    model = _make(4)
    assert _agrees(model, 0)
    for state in model._states:
        state.slots[context.SPIN_NS // context.SLOT] = spin_ns
    for seed in range(150):
        assert _agrees(model, seed)
        if seed % 50 == 0:
            time.sleep(0.01)


def test_helpers_sleep_when_idle() -> None:
    model = _make(3)
    assert _agrees(model, 0)
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.05


def test_a_missing_helper_holds_nobody_up() -> None:
    model = _make(2)
    assert _agrees(model, 0)
    state = model._states[0]
    state._engine.code.stop(state.address)  # as if the helper never got a CPU
    state._finalizer.detach()
    for seed in range(20):
        assert _agrees(model, seed)


def test_profile_covers_each_launch() -> None:
    for threads in (1, 3):
        stamps = _make(threads).profile_run(
            {n: np.zeros((CHUNKS, CHUNK), np.int64) for n in ("x", "y")}
        )
        assert stamps.shape == (threads, len(STEPS), 2)
        took_part = stamps[..., 0] > 0
        assert took_part.any(axis=0).all()
        assert (stamps[..., 1] >= stamps[..., 0]).all()
        assert abs(int(stamps.max()) - time.monotonic_ns()) < 10**10


def test_fork() -> None:
    model = _make(2)
    assert _agrees(model, 0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        ok = all(_agrees(model, seed) for seed in range(20))
        os.write(write, b"y" if ok else b"n")
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"y"
    os.waitpid(child, 0)
    os.close(read)
    assert _agrees(model, 1)


def _run_script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )


_SETUP = """
    import os, signal, sys, threading, time
    import numpy as np
    from whet.tests.test_runtime_life import _make, _agrees
    model = _make(3)
    assert _agrees(model, 0)
"""


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(0)",
        "threading.Thread(target=lambda: [_agrees(model, k) for k in range(10**9)], "
        "daemon=True).start(); time.sleep(0.1)",
        "import atexit; atexit.register(lambda: print(_agrees(model, 1)))",
        "child = os.fork(); model = None if child else model; child and os.waitpid(child, 0)",
    ],
)
def test_exit_does_not_hang(ending: str) -> None:
    done = _run_script(_SETUP + "    " + ending)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_interrupt_leaves_the_model_usable() -> None:
    done = _run_script(
        _SETUP
        + """
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            _agrees(model, 1)
    except KeyboardInterrupt:
        pass
    assert all(_agrees(model, k) for k in range(20))
    print("usable")
    """
    )
    assert "usable" in done.stdout, done.stderr


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _make(3)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ResourceError, match="thread 2 of 3"):
            _agrees(model, 0)
    assert _agrees(model, 0)


@pytest.mark.parametrize("threads", [-1, 1025, "2", 2.0, True])
def test_numbers_of_threads_that_no_run_has(threads: Any) -> None:
    parts = make_parts(make_program(STEPS, [21], chunks=CHUNKS))
    with pytest.raises(OptionError, match="threads is"):
        from_memory(parts, threads)


def test_idle_states_are_limited() -> None:
    model = _make(1)
    assert _agrees(model, 0)
    for _ in range(20):
        model._states.append(State(model._engine_here()))
    assert _agrees(model, 1)
    assert len(model._states) == 8


def test_code_is_never_writable() -> None:
    model = _make(1)
    assert _agrees(model, 0)
    address = model._engine_here().code.address
    with open("/proc/self/maps", encoding="ascii") as file:
        for line in file:
            bounds, mode = line.split()[:2]
            begin, end = (int(part, 16) for part in bounds.split("-"))
            if begin <= address < end:
                assert mode == "r-xp"
                return
    pytest.fail("the code is not mapped")


def test_outputs_need_buffers() -> None:
    program = make_program([("mix", 0, 1)], [2], chunks=1)
    parts = make_parts(program)
    buffers = tuple(b for b in program.buffers if b.name != "o2")
    broken = msgspec.structs.replace(program, buffers=buffers, launches=())
    with pytest.raises(ArtifactError, match="outputs without a buffer: o2"):
        from_memory(msgspec.structs.replace(parts, program=broken))
