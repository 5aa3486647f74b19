"""Facts about this machine that matter for speed and for what works."""

from __future__ import annotations

import mmap
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from whet.limits import container_bytes

# Vector features worth knowing, in the kernel's spelling; x86 flags, then AArch64 ones.
VECTOR_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
_CPU_ROOT = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as the kernel sees it.

    Attributes:
        model: its name.
        features: those of ``VECTOR_FLAGS`` that it has.
        present: processors in the machine.
        allowed: processors that this process may use.
        quota: processors' worth of time that a container grants; ``None`` without a limit.
        caches: size text by cache, such as ``{"L1d": "48K"}``.
    """

    model: str
    features: tuple[str, ...]
    present: int
    allowed: int
    quota: float | None
    caches: dict[str, str]


def read_cpu() -> Cpu:
    """Read what ``/proc`` and ``/sys`` say about the processor."""
    fields = _read_cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Cpu(
        model=fields.get("model name") or platform.processor() or platform.machine(),
        features=tuple(flag for flag in VECTOR_FLAGS if flag in flags),
        present=os.cpu_count() or 1,
        allowed=len(os.sched_getaffinity(0)),
        quota=_read_quota(),
        caches=_read_caches(),
    )


def _read_cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor."""
    fields: dict[str, str] = {}
    for line in (_read_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _read_quota() -> float | None:
    """Return the processor time that a control group grants, in processors."""
    fields = (_read_text(Path("/sys/fs/cgroup/cpu.max")) or "max").split()
    if fields[0] == "max" or len(fields) != 2:
        return None
    return int(fields[0]) / int(fields[1])


def _read_caches() -> dict[str, str]:
    """Return the caches of the first processor."""
    caches: dict[str, str] = {}
    for folder in sorted(_CPU_ROOT.glob("index*")):
        level, kind = _read_text(folder / "level"), _read_text(folder / "type")
        suffix = {"Data": "d", "Instruction": "i"}.get(kind or "", "")
        caches[f"L{level}{suffix}"] = _read_text(folder / "size") or "?"
    return caches


def _read_text(path: Path) -> str | None:
    """Return what a file of the kernel says, ``None`` where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes: in the machine, free now, and granted by a container if it limits."""

    total: int
    available: int
    limit: int | None


def read_memory() -> Memory:
    """Read how much memory there is."""
    import psutil

    state = psutil.virtual_memory()
    limit = container_bytes()
    limited = limit is not None and limit < state.total
    return Memory(int(state.total), int(state.available), limit if limited else None)


def package_version(name: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python_version() -> str:
    """Return implementation and version of the interpreter."""
    return f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder where compiled kernels are kept.

    Attributes:
        path: the folder.
        problem: why it cannot be used; ``None`` when it can.
        size_bytes: what it holds now.
    """

    path: Path
    problem: str | None
    size_bytes: int


def read_cache(path: Path) -> Cache:
    """Try to write into the cache folder, which is created if need be."""
    problem = None
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        problem = error.strerror or str(error)
    return Cache(path, problem, _folder_size(path))


def _folder_size(path: Path) -> int:
    """Add up the files of a folder; those that vanish meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def check_executable_mapping(folder: Path | None = None) -> str | None:
    """Try to map a file executable, as loading a compiled model does; say what stops it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            protection = mmap.PROT_READ | mmap.PROT_EXEC
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, protection).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
