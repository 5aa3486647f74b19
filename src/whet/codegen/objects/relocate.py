"""Relocations that position-independent kernels use, for x86-64 and AArch64.

References through a global offset table are rewritten into direct ones, because an image has no
table. Sources: the psABI documents "System V ABI, AMD64 supplement" and "ELF for the Arm 64-bit
Architecture".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Fixup(NamedTuple):
    """One relocation: ``kind`` at image offset ``at``, towards ``target + addend``."""

    kind: int
    at: int
    target: int
    addend: int
    symbol: str

    @property
    def distance(self) -> int:
        """Bytes from the place to the target."""
        return self.target + self.addend - self.at


Relocator = Callable[[bytearray, Fixup], str]


def _relocate_x86(code: bytearray, fixup: Fixup) -> str:
    """Apply one x86-64 relocation; return what is wrong, or nothing."""
    kind, at = fixup.kind, fixup.at
    if kind == 24:  # PC64
        struct.pack_into("<q", code, at, fixup.distance)
        return ""
    if kind in (9, 41, 42):  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX
        problem = _relax_x86(code, at)
        if problem:
            return problem
    elif kind not in (2, 4):  # PC32, PLT32
        return f"kind {kind} is not supported in an image without absolute addresses"
    if not -(2**31) <= fixup.distance < 2**31:
        return "target is more than 2 GiB away"
    struct.pack_into("<i", code, at, fixup.distance)
    return ""


def _relax_x86(code: bytearray, at: int) -> str:
    """Turn a load of an address from the global offset table into the address itself."""
    opcode, form = code[at - 2], code[at - 1]
    if opcode == 0x8B:  # mov sym@GOTPCREL(%rip), %reg  ->  lea sym(%rip), %reg
        code[at - 2] = 0x8D
    elif opcode == 0xFF and form == 0x15:  # call *sym@GOTPCREL(%rip)  ->  addr32 call sym
        code[at - 2 : at] = b"\x67\xe8"
    elif opcode == 0xFF and form == 0x25:  # jmp *sym@GOTPCREL(%rip)  ->  cs jmp sym
        code[at - 2 : at] = b"\x2e\xe9"
    else:
        return f"instruction {opcode:02x} {form:02x} reads the global offset table"
    return ""


_LOW_BITS_SHIFT = MappingProxyType({277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4})
_BRANCHES = MappingProxyType({282: (26, 0), 283: (26, 0), 280: (19, 5), 279: (14, 5)})


def _relocate_arm(code: bytearray, fixup: Fixup) -> str:
    """Apply one AArch64 relocation; return what is wrong, or nothing."""
    kind, at = fixup.kind, fixup.at
    if kind in (260, 261):  # PREL64, PREL32
        if kind == 261 and not -(2**31) <= fixup.distance < 2**31:
            return "target is more than 2 GiB away"
        struct.pack_into("<q" if kind == 260 else "<i", code, at, fixup.distance)
        return ""
    (word,) = struct.unpack_from("<I", code, at)
    patched: int | str
    if kind in (275, 311):  # ADR_PREL_PG_HI21, ADR_GOT_PAGE
        patched = _page_address(word, fixup)
    elif kind == 274:  # ADR_PREL_LO21
        patched = _address(word, fixup.distance)
    elif kind == 312:  # LD64_GOT_LO12_NC: ldr -> add, as the page is that of the symbol itself
        patched = 0x91000000 | (word & 0x3FF) | ((fixup.target + fixup.addend) & 0xFFF) << 10
    elif kind in _LOW_BITS_SHIFT:
        patched = _low_bits(word, fixup, _LOW_BITS_SHIFT[kind])
    elif kind in _BRANCHES:
        patched = _branch(word, fixup.distance, *_BRANCHES[kind])
    else:
        return f"kind {kind} is not supported in an image without absolute addresses"
    if isinstance(patched, str):
        return patched
    struct.pack_into("<I", code, at, patched)
    return ""


def _page_address(word: int, fixup: Fixup) -> int | str:
    pages = ((fixup.target + fixup.addend) >> 12) - (fixup.at >> 12)
    return _address(word, pages)


def _address(word: int, value: int) -> int | str:
    if not -(2**20) <= value < 2**20:
        return "target is too far for adr"
    return (word & 0x9F00001F) | (value & 3) << 29 | ((value >> 2) & 0x7FFFF) << 5


def _low_bits(word: int, fixup: Fixup, shift: int) -> int | str:
    value = (fixup.target + fixup.addend) & 0xFFF
    if value & ((1 << shift) - 1):
        return f"target is not aligned to {1 << shift} bytes"
    return (word & ~(0xFFF << 10)) | (value >> shift) << 10


def _branch(word: int, distance: int, bits: int, position: int) -> int | str:
    if distance & 3 or not -(1 << (bits + 1)) <= distance < 1 << (bits + 1):
        return "branch target is too far or misaligned"
    mask = (1 << bits) - 1
    return (word & ~(mask << position)) | ((distance >> 2) & mask) << position


RELOCATORS: Mapping[str, Relocator] = MappingProxyType(
    {"x86_64": _relocate_x86, "aarch64": _relocate_arm}
)
