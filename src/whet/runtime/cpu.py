"""What CPU this is, and whether code for a target can run on it."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterable

from whet.errors import TargetError
from whet.program.records import TargetInfo

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}

# LLVM's name -> the kernel's name in /proc/cpuinfo, where more than punctuation differs.
_KERNEL_NAMES = {
    "bmi": "bmi1",
    "lzcnt": "abm",
    "sse3": "pni",
    "sahf": "lahflm",
    "pclmul": "pclmulqdq",
    "rdrnd": "rdrand",
    "crc32": "sse42",
    "sha": "shani",
    "neon": "asimd",
    "fparmv8": "fp",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "fp16fml": "asimdfhm",
    "rdm": "asimdrdm",
    "lse": "atomics",
    "sha2": "sha2",
    "crc": "crc32",
    "complxnum": "fcma",
    "rcpc": "lrcpc",
    "jsconv": "jscvt",
}


def host_architecture() -> str:
    """Return ``"x86_64"``, ``"aarch64"`` or what the system calls its machine."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


@functools.cache
def host_features() -> frozenset[str]:
    """Return the CPU's feature flags as Linux lists them, without punctuation."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return frozenset()
    found: set[str] = set()
    for line in text.splitlines():
        key, _, values = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            found.update(_plain(value) for value in values.split())
            break
    return frozenset(found)


def missing_features(features: Iterable[str]) -> list[str]:
    """Return those of LLVM's feature names that this CPU does not have, sorted."""
    present = host_features()
    return sorted(f for f in features if not _has(_plain(f), present))


def runs_here(target: TargetInfo) -> bool:
    """Tell whether this machine can run code for a target."""
    same = target.triple.split("-", 1)[0] == host_architecture()
    return same and not missing_features(target.features)


def check_target(target: TargetInfo) -> None:
    """Refuse code that this machine cannot run.

    Raises:
        TargetError: the architecture differs, or CPU features are missing; all are listed.
    """
    wanted, host = target.triple.split("-", 1)[0], host_architecture()
    if wanted != host:
        raise TargetError(
            f"the code is for {wanted}, this machine is {host}",
            where=f"code for {target.cpu}",
            hint="compile the model for this machine, or copy the file to one that it is for",
        )
    missing = missing_features(target.features)
    if missing:
        raise TargetError(
            f"this CPU lacks {', '.join(missing)}",
            where=f"code for {target.cpu}",
            hint="compile the model on this machine or for an older CPU",
        )


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").lstrip("+")


def _has(feature: str, present: frozenset[str]) -> bool:
    return feature in present or _KERNEL_NAMES.get(feature, feature) in present
