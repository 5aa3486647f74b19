"""Inputs that a program changes in place, such as the cache of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whet.errors import InputError
from whet.program.records import BufferKind, Program
from whet.runtime.arrays import Array, Port


def changed_inputs(program: Program) -> frozenset[str]:
    """Return the names of the inputs that launches write to."""
    written = {launch.args[position] for launch in program.launches for position in launch.writes}
    buffers = (program.buffers[index] for index in written)
    return frozenset(b.name for b in buffers if b.kind is BufferKind.INPUT)


def check_changed(
    names: frozenset[str], ports: Sequence[Port], given: Mapping[str, Any], used: Sequence[Array]
) -> None:
    """Check that what is changed is the caller's own array, and that it may be.

    Raises:
        InputError: an array would be copied first, so that changes were lost, or is read-only.
    """
    for port, array in zip(ports, used, strict=True):
        if port.name in names and not (array is given[port.name] and array.flags.writeable):
            raise InputError(
                "the array is changed in place, so it has to be contiguous, writable "
                f"and of type {port.dtype}",
                where=f"input {port.name!r}",
                hint="give numpy.zeros(shape, dtype), and the same array again at the next call",
            )


def refuse_empty(names: frozenset[str], *, empty: bool) -> None:
    """Refuse a run that gives nothing: it would be left out, and its changes with it.

    Raises:
        InputError: all outputs are empty.
    """
    if empty:
        raise InputError(
            f"all outputs are empty, so that {sorted(names)[0]!r} would not be changed",
            hint="ask for at least one element of an output",
        )
