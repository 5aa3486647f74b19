"""A small program, and the ``.whet`` file of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from whet.program.records import Program
from whet.tests.toys import CHUNK, make_model, make_program

STEPS = [("mix", 0, 1), ("sub", 3, 2), ("mix", 3, 4)]


def saved(path: Path, **changes: object) -> tuple[Program, np.ndarray]:
    """Write the program with some fields changed; return it and its constant."""
    program = make_program(STEPS, [5], chunks=2, threads=2, constants=1)
    program = msgspec.structs.replace(program, **changes)
    constant = np.arange(2 * CHUNK)
    make_model(program, constant).save(path)
    return program, constant
