"""Resident memory of a runtime that loads a model and runs it once, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from whet.errors import ResourceError
from whet.measure.runner import Inputs

STATUS = Path("/proc/self/status")
PACKAGE_PARENT = Path(__file__).parents[2]  # ``python -m`` finds the package from here
WRITE_BYTECODE = (
    "import sys, msgspec, numpy; sys.pycache_prefix = sys.argv[1]; "
    "sys.dont_write_bytecode = False; import whet.runtime.load, whet.measure.peers"
)
"""Compiles what running a file imports, as ``pip install`` does: parsing leaves memory behind."""


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of resident memory, and how long loading took.

    Attributes:
        before_bytes: with Python, NumPy and the inputs, before the runtime is imported.
        after_bytes: after loading and running once.
        peak_bytes: the highest so far, compilation included if the runtime compiles.
        prepare_s: importing the runtime and loading the model.
        first_run_s: the first call.
    """

    before_bytes: int
    after_bytes: int
    peak_bytes: int
    prepare_s: float
    first_run_s: float


class _Request(msgspec.Struct, frozen=True):
    runtime: str
    model: str
    inputs: str
    threads: int
    bytecode: str


def _status_bytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ResourceError(f"{STATUS} has no {field}", hint="memory is measured on Linux only")


def _measure_here(request: _Request) -> MemoryUse:
    from whet.measure.peers import file_runner

    with np.load(request.inputs) as archive:
        inputs = {name: archive[name] for name in archive.files}
    before = _status_bytes("VmRSS")
    if request.runtime == "whet":
        sys.pycache_prefix = request.bytecode
    runner = file_runner(request.runtime, Path(request.model), request.threads)
    started = time.perf_counter()
    runner.prepare()
    prepared = time.perf_counter()
    runner.run(inputs)
    finished = time.perf_counter()
    return MemoryUse(
        before_bytes=before,
        after_bytes=_status_bytes("VmRSS"),
        peak_bytes=_status_bytes("VmHWM"),
        prepare_s=prepared - started,
        first_run_s=finished - prepared,
    )


def measure_memory(runtime: str, model: Path, inputs: Inputs, *, threads: int) -> MemoryUse:
    """Load a model file and run it once in a fresh process and return what that took.

    Args:
        runtime: a name of :data:`whet.measure.peers.FILE_RUNNERS`.
        model: for Whet, a compiled file (loading) or an ONNX file (compiling too).
        inputs: one feed.
        threads: of the runtime.

    Raises:
        ResourceError: the process failed; its last words are in the hint.
    """
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder) / "inputs.npz"
        np.savez(feed, allow_pickle=False, **inputs)
        bytecode = str(Path(folder) / "bytecode")
        if runtime == "whet":
            command = [sys.executable, "-c", WRITE_BYTECODE, bytecode]
            subprocess.run(command, check=True, cwd=PACKAGE_PARENT)
        request = _Request(runtime, str(model.resolve()), str(feed), threads, bytecode)
        done = subprocess.run(
            [sys.executable, "-m", "whet.measure.memory"],
            input=msgspec.json.encode(request),
            capture_output=True,
            check=False,
            cwd=PACKAGE_PARENT,
        )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ResourceError(
            f"{runtime} ended with status {done.returncode}", where=str(model), hint=words[-1]
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=MemoryUse)


def main() -> None:
    """Answer the request on standard input; this is the fresh process."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_measure_here(request)) + b"\n")


if __name__ == "__main__":
    main()
