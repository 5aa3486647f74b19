"""The linker: what it resolves and what it refuses."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import pytest

from whet.codegen.objects.link import link
from whet.codegen.objects.relocate import RELOCATORS, Fixup
from whet.errors import CompileError
from whet.runtime.image import map_code
from whet.tests.toys import HOST, assemble, machine

ARM = "aarch64-unknown-linux-gnu"
ENTRY = "\n".join(
    f"define void @{name}() {{ ret void }}" for name in ("whet_start", "whet_worker", "whet_stop")
)
TABLE = """
@table = private unnamed_addr constant [4 x i32] [i32 7, i32 11, i32 13, i32 17], align 64
@wide = private unnamed_addr constant <4 x i64> <i64 1, i64 2, i64 3, i64 4>, align 64
define i32 @look(i64 %i) noinline {
  %p = getelementptr i32, ptr @table, i64 %i
  %v = load i32, ptr %p
  ret i32 %v
}
define void @spread(ptr %p) noinline {
  %v = load <4 x i64>, ptr @wide
  store <4 x i64> %v, ptr %p
  ret void
}
define i64 @choose(i64 %i) {
  switch i64 %i, label %d [i64 0, label %a
    i64 1, label %b
    i64 2, label %c
    i64 3, label %e
    i64 4, label %f]
a:
  %r0 = call i64 @far(i64 5)
  ret i64 %r0
b:
  ret i64 31
c:
  %r1 = call i32 @look(i64 2)
  %r2 = zext i32 %r1 to i64
  ret i64 %r2
e:
  ret i64 77
f:
  %q = load i64, ptr @number
  ret i64 %q
d:
  ret i64 -1
}
declare i64 @far(i64)
@number = external constant i64
"""
FAR = """
define i64 @far(i64 %x) { %y = mul i64 %x, 9
  ret i64 %y }
@number = constant i64 123456789
define ptr @address() { ret ptr @number }
"""


def test_references_between_objects() -> None:
    image = link([assemble(TABLE), assemble(FAR), assemble(ENTRY)])
    code = map_code(image.code, image.symbols)
    choose = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(
        code.address + image.symbols["choose"]
    )
    assert [choose(k) for k in range(6)] == [45, 31, 13, 77, 123456789, -1]
    spread = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address + image.symbols["spread"])
    out = (ctypes.c_int64 * 4)()
    spread(ctypes.addressof(out))
    assert list(out) == [1, 2, 3, 4]
    address = ctypes.CFUNCTYPE(ctypes.c_void_p)(code.address + image.symbols["address"])
    assert address() == code.address + image.symbols["number"]


def test_images_do_not_depend_on_their_address() -> None:
    objects = [assemble(TABLE), assemble(FAR), assemble(ENTRY)]
    assert link(objects) == link(objects)


def test_arm_links() -> None:
    image = link([assemble(TABLE, ARM), assemble(FAR, ARM)])
    assert image.architecture == "aarch64"
    assert image.symbols["choose"] % 4 == 0


def test_undefined_symbols_are_all_named() -> None:
    text = "declare void @a()\ndeclare void @b()\ndefine void @f() {\ncall void @a()\n"
    text += "call void @b()\nret void\n}"
    with pytest.raises(CompileError, match=r"undefined symbols: a \(in k\), b \(in k\)"):
        link({"k": assemble(text)})


def test_symbols_defined_twice() -> None:
    with pytest.raises(CompileError, match="far is defined twice"):
        link({"one": assemble(FAR), "two": assemble(FAR)})


def test_weak_symbols_give_way() -> None:
    weak = "define weak i64 @v() { ret i64 1 }"
    strong = "define i64 @v() { ret i64 2 }"
    image = link([assemble(weak), assemble(strong), assemble(weak), assemble(ENTRY)])
    code = map_code(image.code, image.symbols)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address + image.symbols["v"])() == 2


@pytest.mark.parametrize(
    "text",
    [
        "@g = global i64 1\ndefine ptr @f() { ret ptr @g }",
        "@g = global i64 0\ndefine ptr @f() { ret ptr @g }",
        "@g = private constant [2 x ptr] [ptr @f, ptr @f]\ndefine ptr @f() { ret ptr @g }",
    ],
)
def test_writable_data_is_refused(text: str) -> None:
    with pytest.raises(CompileError, match="writable"):
        link([assemble(text)])


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(80), bytes(100)])
def test_damaged_objects(data: bytes) -> None:
    with pytest.raises(CompileError):
        link([data])
    with pytest.raises(CompileError, match="nothing to link"):
        link([])


def test_truncated_objects() -> None:
    data = assemble(FAR)
    for size in range(0, len(data), 7):
        with pytest.raises(CompileError):
            link([data[:size]])


def test_machines_do_not_mix() -> None:
    with pytest.raises(CompileError, match="different machines"):
        link([assemble(FAR, "x86_64-linux-gnu"), assemble(ENTRY, ARM)])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x48\x8b\x05", b"\x48\x8d\x05"),
        (b"\x90\xff\x15", b"\x90\x67\xe8"),
        (b"\x90\xff\x25", b"\x90\x2e\xe9"),
    ],
)
def test_table_loads_become_direct(before: bytes, after: bytes) -> None:
    code = bytearray(before + bytes(4))
    assert RELOCATORS["x86_64"](code, Fixup(42, 3, 103, -4, "s")) == ""
    assert code == after + (96).to_bytes(4, "little")


def test_unknown_and_distant_relocations() -> None:
    for kind in (1, 10, 11, 99):
        assert "not supported" in RELOCATORS["x86_64"](bytearray(16), Fixup(kind, 4, 8, 0, "s"))
    assert "GiB" in RELOCATORS["x86_64"](bytearray(16), Fixup(2, 4, 2**31 + 9, 0, "s"))
    assert "table" in RELOCATORS["x86_64"](bytearray(16), Fixup(9, 4, 8, 0, "s"))
    for kind in (257, 258, 999):
        assert "not supported" in RELOCATORS["aarch64"](bytearray(16), Fixup(kind, 4, 8, 0, "s"))
    assert "too far" in RELOCATORS["aarch64"](bytearray(16), Fixup(283, 4, 2**28, 0, "s"))
    assert "aligned" in RELOCATORS["aarch64"](bytearray(16), Fixup(299, 4, 8, 0, "s"))


@pytest.mark.parametrize(
    ("kind", "word", "target", "want"),
    [
        (275, 0x90000000, 0x5123, 0xB0000020),  # adrp x0, +5 pages
        (277, 0x91000000, 0x5123, 0x91048C00),  # add x0, x0, #0x123
        (286, 0xF9400000, 0x5128, 0xF9409400),  # ldr x0, [x0, #0x128]
        (299, 0x3DC00000, 0x5120, 0x3DC04800),  # ldr q0, [x0, #0x120]
        (283, 0x94000000, 0x5120, 0x94001448),  # bl
        (282, 0x14000000, 0x5120, 0x14001448),  # b
        (312, 0xF9400021, 0x5123, 0x91048C21),  # ldr x1, [x1, :got_lo12:] -> add
    ],
)
def test_arm_encodings(kind: int, word: int, target: int, want: int) -> None:
    code = bytearray(word.to_bytes(4, "little"))
    assert RELOCATORS["aarch64"](code, Fixup(kind, 0, target, 0, "s")) == ""
    assert int.from_bytes(code, "little") == want


def test_objects_hold_only_known_relocations() -> None:
    # A kernel with many constants and a jump table, at both code generation levels.
    for triple in (HOST, ARM):
        module = llvm.parse_assembly(f'target triple = "{triple}"\n{TABLE}')
        assert link([bytes(machine(triple).emit_object(module)), assemble(FAR, triple)]).code
