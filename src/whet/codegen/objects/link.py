"""A small linker: relocatable ELF objects in, one position-independent image out.

Takes what LLVM emits with ``reloc=pic`` for kernels: ``.text*`` and read-only data, references
between them, no writable data. The image holds no absolute address, so that it can be mapped
executable straight from a file, at any page.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec

from whet.codegen.objects.relocate import RELOCATORS, Fixup
from whet.errors import CompileError

MACHINES = {62: "x86_64", 183: "aarch64"}

_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_UNDEFINED, _ABSOLUTE, _COMMON = 0, 0xFFF1, 0xFFF2
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_DROPPED = (".eh_frame", ".note", ".comment", ".llvm", ".ARM.attributes")


class Image(msgspec.Struct, frozen=True):
    """Position-independent machine code with its read-only data.

    Attributes:
        code: the bytes; they work at any address that is a multiple of 4096.
        symbols: offset of each global symbol.
        architecture: ``"x86_64"`` or ``"aarch64"``.
    """

    code: bytes
    symbols: dict[str, int]
    architecture: str


class _Section(msgspec.Struct, frozen=True):
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


class _Symbol(msgspec.Struct, frozen=True):
    name: str
    binding: int
    section: int
    value: int


class _Object(msgspec.Struct):
    label: str
    data: bytes
    sections: list[_Section]
    symbols: list[_Symbol]
    machine: int
    places: dict[int, int] = msgspec.field(default_factory=dict)


def link(objects: Sequence[bytes] | Mapping[str, bytes]) -> Image:
    """Link objects into one image.

    Args:
        objects: the ELF files, by name if error messages are to name them.

    Raises:
        CompileError: an object is not a supported ELF file, has writable data or a relocation
            that needs absolute addresses; symbols are undefined or defined twice.
    """
    named = dict(objects) if isinstance(objects, Mapping) else _numbered(objects)
    parsed = [_parse(label, data) for label, data in named.items()]
    if not parsed:
        raise CompileError("there is nothing to link")
    machines = {o.machine for o in parsed}
    if len(machines) != 1:
        raise CompileError("objects of different machines do not link")
    code = _place(parsed)
    symbols = _global_symbols(parsed)
    _check_defined(parsed, symbols)
    for item in parsed:
        _relocate(item, code, symbols)
    architecture = MACHINES[machines.pop()]
    return Image(bytes(code), dict(sorted(symbols.items())), architecture)


def _numbered(objects: Sequence[bytes]) -> dict[str, bytes]:
    return {f"object {index}": data for index, data in enumerate(objects)}


def _parse(label: str, data: bytes) -> _Object:
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            raise CompileError("not a 64-bit little-endian ELF file", where=label)
        kind, machine = struct.unpack_from("<HH", data, 16)
        if kind != 1 or machine not in MACHINES:
            raise CompileError(f"ELF type {kind} for machine {machine}", where=label)
        (table,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        sections = _parse_sections(data, table, count, names)
        return _Object(label, data, sections, _parse_symbols(data, sections), machine)
    except (struct.error, IndexError, ValueError) as error:
        raise CompileError(f"damaged ELF file: {error}", where=label) from error


def _parse_sections(data: bytes, table: int, count: int, names: int) -> list[_Section]:
    raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
    strings = raw[names][4]
    return [
        _Section(
            _text_at(data, strings + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], max(int(r[8]), 1)
        )
        for r in raw
    ]


def _parse_symbols(data: bytes, sections: Sequence[_Section]) -> list[_Symbol]:
    table = next((s for s in sections if s.kind == _SYMTAB), None)
    if table is None:
        return []
    strings = sections[table.link].offset
    found = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        found.append(_Symbol(_text_at(data, strings + name), info >> 4, section, value))
    return found


def _text_at(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _kept(item: _Object, index: int) -> bool:
    section = item.sections[index]
    if not section.flags & _ALLOC or section.name.startswith(_DROPPED) or not section.size:
        return False
    if section.flags & _WRITE or section.kind == _NOBITS:
        raise CompileError(f"section {section.name} is writable", where=item.label)
    return True


def _place(objects: Sequence[_Object]) -> bytearray:
    """Lay out code first, then read-only data; fill in where each section went."""
    image = bytearray()
    for executable in (True, False):
        image.extend(bytes(-len(image) % 64))
        for item in objects:
            for index, section in enumerate(item.sections):
                if bool(section.flags & _EXECUTE) != executable or not _kept(item, index):
                    continue
                image.extend(bytes(-len(image) % section.align))
                item.places[index] = len(image)
                image += item.data[section.offset : section.offset + section.size]
    return image


def _global_symbols(objects: Sequence[_Object]) -> dict[str, int]:
    symbols: dict[str, int] = {}
    strong: dict[str, str] = {}
    for item in objects:
        for symbol in item.symbols:
            if symbol.binding == _LOCAL or symbol.section == _UNDEFINED:
                continue
            if symbol.section in (_ABSOLUTE, _COMMON) or symbol.section not in item.places:
                raise CompileError(f"symbol {symbol.name} is not in code", where=item.label)
            if symbol.binding == _GLOBAL and symbol.name in strong:
                places = f"{strong[symbol.name]} and {item.label}"
                raise CompileError(f"symbol {symbol.name} is defined twice", where=places)
            if symbol.binding == _GLOBAL:
                strong[symbol.name] = item.label
            elif symbol.name in symbols:
                continue
            symbols[symbol.name] = item.places[symbol.section] + symbol.value
    return symbols


def _check_defined(objects: Sequence[_Object], symbols: Mapping[str, int]) -> None:
    missing: dict[str, str] = {}
    for item in objects:
        for symbol in item.symbols:
            if symbol.section == _UNDEFINED and symbol.name and symbol.name not in symbols:
                missing.setdefault(symbol.name, item.label)
    if missing:
        names = ", ".join(f"{name} (in {label})" for name, label in sorted(missing.items()))
        raise CompileError(f"undefined symbols: {names}")


def _relocate(item: _Object, code: bytearray, symbols: Mapping[str, int]) -> None:
    apply = RELOCATORS[MACHINES[item.machine]]
    for table in item.sections:
        if table.kind != _RELA or table.info not in item.places:
            continue
        start = item.places[table.info]
        for at in range(table.offset, table.offset + table.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", item.data, at)
            symbol = item.symbols[info >> 32]
            target = _target(item, symbol, symbols)
            fixup = Fixup(info & 0xFFFFFFFF, start + offset, target, addend, symbol.name)
            problem = apply(code, fixup)
            if problem:
                raise CompileError(f"relocation of {symbol.name!r}: {problem}", where=item.label)


def _target(item: _Object, symbol: _Symbol, symbols: Mapping[str, int]) -> int:
    if symbol.binding != _LOCAL:
        return symbols[symbol.name]
    if symbol.section not in item.places:
        raise CompileError(f"reference to {symbol.name!r}, which is not code", where=item.label)
    return item.places[symbol.section] + symbol.value
