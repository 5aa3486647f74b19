"""What code generation needs to know of a processor."""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A processor to compile for.

    Attributes:
        triple: LLVM triple.
        cpu: LLVM CPU name.
        features: LLVM feature string.
        required: names of the features that the code uses, checked when it is loaded.
        vector_bytes: width of a vector register.
        registers: number of vector registers.
        l1_bytes: level-1 data cache of a core.
        l2_bytes: level-2 cache of a core.
        lane_fma: whether a multiply-add takes any lane of a register as its scalar operand, so that
            one load brings the scalars of several depth steps.
        dot: how four products of 8-bit integers are added up in a lane: ``vnni`` or ``i8mm`` in one
            instruction, ``dotprod`` of signed ones, ``pairs`` of 16-bit integers, or ``""`` one by
            one.
        bfloat16_dot: whether an instruction adds up two products of bfloat16 in a lane.
        products_per_cycle: vectors that are multiplied and added in a cycle.
        byte_tables: whether an instruction looks every byte of a register up in two registers.
        adds_apart: whether additions have units of their own, so that a vector is added in the same
            cycle in which another is multiplied and added.
    """

    triple: str
    cpu: str
    features: str
    required: tuple[str, ...]
    vector_bytes: int
    registers: int
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    lane_fma: bool = False
    dot: str = ""
    bfloat16_dot: bool = False
    byte_tables: bool = False
    products_per_cycle: int = 2
    adds_apart: bool = False

    @property
    def lanes(self) -> int:
        """32-bit elements in a vector."""
        return self.vector_bytes // 4
