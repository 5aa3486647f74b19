"""How much memory the control groups of this process leave it: versions 1 and 2 of Linux.

A process counts for its own group and for all above it, each of which may have a limit. Inside a
container the path of its group is often that of the host, and not there: then the root of what is
mounted is the container's own group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version calls things.

    Attributes:
        mounts: where its memory controller may be found, seen from ``/sys/fs/cgroup``.
        most: file of the limit.
        used: file of the memory in use, pages of files included.
        pages: pages of files, not in active use, of a group and all below it; in ``memory.stat``.
    """

    mounts: tuple[str, ...]
    most: str
    used: str
    pages: str


_FIRST = _Version(
    ("memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)
_SECOND = _Version(("", "unified"), "memory.max", "memory.current", "inactive_file")

_MOST = 1 << 60
"""Version 1 writes the largest multiple of a page where there is no limit."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a limit of memory.

    Attributes:
        most_bytes: the limit.
        used_bytes: what its processes take; ``None`` if that cannot be read.
        pages_bytes: part of it that can be had back: pages of files that can be read again.
    """

    most_bytes: int
    used_bytes: int | None
    pages_bytes: int


def memory_groups() -> list[MemoryGroup]:
    """Return the control groups with a limit that this process belongs to, the innermost first."""
    found = []
    for version, folder in _folders():
        most = read_number(folder / version.most)
        if most is not None and most < _MOST:
            pages = read_number(folder / "memory.stat", version.pages) or 0
            found.append(MemoryGroup(most, read_number(folder / version.used), pages))
    return found


def _folders() -> Iterator[tuple[_Version, Path]]:
    """Yield the folders of the process's groups, each with its version."""
    first, second = _own_paths()
    for version, path in ((_SECOND, second), (_FIRST, first)):
        for mount in version.mounts:
            root = _ROOT / mount
            own = root / path.lstrip("/")
            inside = own.is_dir() and ".." not in own.parts
            folder = own if inside else root
            yield version, folder
            while folder != root:
                folder = folder.parent
                yield version, folder


def _own_paths() -> tuple[str, str]:
    """Return the paths of the memory controller's group and of version 2's; the root if unknown."""
    first = second = "/"
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return first, second
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            first = path
        elif number == "0" and not controllers:
            second = path
    return first, second


def read_number(path: Path, name: str | None = None) -> int | None:
    """Return the number that a file of the system consists of, or that stands behind a name."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    place = 0 if name is None else words.index(name) + 1 if name in words else len(words)
    return int(words[place]) if place < len(words) and words[place].isdigit() else None
