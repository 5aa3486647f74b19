"""Where the nodes of a model run: in native code, in the script, or in functions of the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from whet.program.records import Program
from whet.program.script import HOST_FUNCTIONS, Block, Call, If, Loop, all_blocks


class Place(StrEnum):
    """Where something runs."""

    NATIVE = "native"
    CONTROL = "control"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Placement:
    """One launch or step.

    Attributes:
        place: where it runs.
        ops: what it computes, as operators of the model or functions of the runtime.
        nodes: the nodes of the model that it stands for.
    """

    place: Place
    ops: tuple[str, ...]
    nodes: tuple[str, ...]


def placements(program: Program) -> tuple[Placement, ...]:
    """Return every launch, and every step of the script that stands for a node."""
    native = (Placement(Place.NATIVE, x.ops, x.nodes) for x in program.launches)
    steps = script_placements(program.script.main) if program.script is not None else ()
    return (*native, *steps)


def script_placements(main: Block) -> Iterator[Placement]:
    """Yield the steps of a script that stand for nodes of the model."""
    for block in all_blocks(main):
        for step in block.steps:
            if isinstance(step, Call):
                place = Place.HOST if step.function in HOST_FUNCTIONS else Place.CONTROL
                yield Placement(place, (step.function,), (step.where,))
            elif isinstance(step, If | Loop):
                yield Placement(Place.CONTROL, (type(step).__name__,), (step.where,))
