"""``Limits``: how much of the machine a model may take before it is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from whet.errors import OptionError, ResourceError, nearest

_GIB = 1 << 30
_SMALL_BLOCK = 1 << 28
_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on a model and its compilation; every one can be raised.

    Attributes:
        file_bytes: the model file together with its external data.
        nodes: nodes after functions are inlined, those of sub-graphs included.
        depth: sub-graphs within sub-graphs and functions within functions.
        rank: dimensions of a tensor.
        tensor_bytes: one tensor of known shape, constant or computed.
        total_bytes: all constants of the model together.
        folded_bytes: all constants that the compiler computes, together.
        compile_s: seconds of compilation; looked at between passes and between kernels.
        compile_bytes: memory that compilation adds to the process, pages of files not counted;
            0 takes three quarters of what the machine or the container has.
    """

    file_bytes: int = 256 * _GIB
    nodes: int = 200_000
    depth: int = 32
    rank: int = 32
    tensor_bytes: int = 1024 * _GIB
    total_bytes: int = 256 * _GIB
    folded_bytes: int = 4 * _GIB
    compile_s: int = 3600
    compile_bytes: int = 0

    def __post_init__(self) -> None:
        """Reject what is no bound."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            lowest = 0 if entry.name == "compile_bytes" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise OptionError(
                    f"the limit {entry.name} is {value!r}",
                    hint=f"give an integer of {lowest} or more",
                )

    def changed(self) -> dict[str, int]:
        """Return the bounds that differ from the defaults."""
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != entry.default
        }

    def require(self, name: str, amount: int, what: str, where: str | None = None) -> None:
        """Refuse an amount that exceeds a bound.

        Args:
            name: the bound, an attribute of this record.
            amount: what the model asks for.
            what: the amount in words, such as ``"the constant has 9 bytes"``.
            where: the place, for the error.

        Raises:
            ResourceError: with the bound and how to raise it.
        """
        bound = getattr(self, name)
        if amount > bound:
            raise exceeded(name, f"{what}, more than the limit of {bound}", where)


def exceeded(name: str, message: str, where: str | None) -> ResourceError:
    """Return the error for a bound that is exceeded; its remedy names the option."""
    hint = f"if you trust the model, raise Options.limits.{name} (--limit {name}=N)"
    return ResourceError(message, where=where, hint=hint)


def limits_from_dict(values: Mapping[str, int]) -> Limits:
    """Build limits from names and numbers.

    Raises:
        OptionError: a name is unknown; the nearest valid one is in the hint.
    """
    valid = Limits.__dataclass_fields__
    for name in values:
        if name not in valid:
            raise OptionError(f"there is no limit {name!r}", hint=nearest(name, valid))
    return Limits(**values)


def private_bytes() -> int:
    """Return the resident memory of this process that is no page of a file."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared = (int(part) for part in file.read().split()[:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def machine_bytes() -> int:
    """Return the memory of the machine, or of the container if that has less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(whole, container_bytes() or whole)


def container_bytes() -> int | None:
    """Return the memory that the container may take; ``None`` if it may take all."""
    from whet.cgroups import memory_groups  # few programs that load a model ask

    return min((group.most_bytes for group in memory_groups()), default=None)


def free_bytes() -> int:
    """Return the memory that can still be had: of the machine, or of the container if that is less.

    Pages of files that can be read again are free.
    """
    from whet.cgroups import memory_groups, read_number

    free = read_number(_MEMORY_INFO, "MemAvailable:")
    whole = machine_bytes() - private_bytes() if free is None else free * 1024
    left = (
        group.most_bytes - group.used_bytes + group.pages_bytes
        for group in memory_groups()
        if group.used_bytes is not None
    )
    return min((whole, *left))


def require_memory(size: int) -> None:
    """Refuse a block that is larger than the container: Linux would give it, and kill for it.

    What is larger than the machine is refused by Linux itself.

    Raises:
        ResourceError: naming both sizes.
    """
    if size > _SMALL_BLOCK:
        most = container_bytes()
        if most is not None and size > most:
            raise ResourceError(f"{size} bytes cannot be had in a container of {most}")


@dataclass(frozen=True, slots=True)
class Budget:
    """The clock and the memory of one compilation.

    Attributes:
        limits: the bounds.
        started_s: ``time.monotonic()`` when the compilation began.
        base_bytes: memory of the process at that time.
    """

    limits: Limits = field(default_factory=Limits)
    started_s: float = field(default_factory=time.monotonic)
    base_bytes: int = field(default_factory=private_bytes)

    def check(self, where: str) -> None:
        """Stop a compilation that takes too long or too much.

        Raises:
            ResourceError: with the stage that it had reached.
        """
        limits = self.limits
        elapsed = time.monotonic() - self.started_s
        if elapsed > limits.compile_s:
            message = f"compilation took {elapsed:.0f} s, more than the limit of {limits.compile_s}"
            raise exceeded("compile_s", message, where)
        bound = limits.compile_bytes or machine_bytes() * 3 // 4
        added = private_bytes() - self.base_bytes
        if added > bound:
            message = f"compilation took {added} bytes of memory, more than the limit of {bound}"
            raise exceeded("compile_bytes", message, where)
