"""The ``.whet`` file: round trip, damage at any byte, interrupted writes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from whet.codegen.writing.builder import I64, PTR, Builder, Value
from whet.errors import ArtifactError, TargetError, WhetError
from whet.index import Dim, as_poly, var
from whet.program import context
from whet.program.container import MINOR, digest, map_section, open_container
from whet.program.make_manifest import make_manifest
from whet.program.manifest import SectionRow, decode_manifest, encode_manifest, program_of
from whet.program.records import Content, Launch, Program, TargetInfo
from whet.program.save import write_container
from whet.runtime.load import load
from whet.tests.saved_programs import STEPS, saved
from whet.tests.toys import CHUNK, make_model, make_program, random_steps, simulate


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    program, constant = saved(path)
    model = load(path)
    assert model.program == program
    assert model.graph is not None and bytes(model.graph) == b"graph"
    assert model.metadata == {"k": "v"}
    x = np.arange(2 * CHUNK).reshape(2, CHUNK)
    want = simulate(STEPS, [x, x, constant])[5]
    np.testing.assert_array_equal(model({"x": x, "y": x})["o5"].reshape(-1), want)
    model.save(path)  # over the file that it runs from
    again = load(path)
    np.testing.assert_array_equal(model({"x": x, "y": x})["o5"].reshape(-1), want)
    np.testing.assert_array_equal(again({"x": x, "y": x})["o5"].reshape(-1), want)
    assert model.stats.weight_bytes == constant.nbytes
    assert os.listdir(tmp_path) == ["m.whet"]


def test_symbolic_round_trip(tmp_path: Path) -> None:
    program = make_program(STEPS[:1], [2], chunks=var(Dim("n")) * 2 // 2)
    make_model(program).save(tmp_path / "m.whet")
    assert load(tmp_path / "m.whet").program == program


def test_program_without_weights(tmp_path: Path) -> None:
    model = make_model(make_program(STEPS[:1], [2], chunks=1), np.zeros(0, np.uint8))
    model.save(tmp_path / "m.whet")
    x = np.ones((1, CHUNK), np.int64)
    assert load(tmp_path / "m.whet")({"x": x, "y": x})["o2"][0, 0] == 4


def _check_all(path: Path) -> None:
    with open_container(path) as container:
        for row in container.sections.values():
            map_section(container, row)


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    data = path.read_bytes()
    for size in range(len(data) - 1, -1, -1):
        os.truncate(path, size)
        with pytest.raises(ArtifactError):
            load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError):
        load(path)


def test_flipped_byte_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    data = path.read_bytes()
    _check_all(path)
    handle = os.open(path, os.O_RDWR)
    rng = np.random.default_rng(1)
    for at in range(len(data)):
        bit = 1 << int(rng.integers(8))
        os.pwrite(handle, bytes([data[at] ^ bit]), at)
        with pytest.raises(ArtifactError):
            _check_all(path)
        os.pwrite(handle, data[at : at + 1], at)
    os.close(handle)
    _check_all(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 8192, 8200, 2**22 + 8, 2**22 * 2 + 8193])
def test_digest_sees_each_change(size: int) -> None:
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size, np.uint8)
    first = digest(data.data)
    assert digest(np.append(data, np.uint8(0)).data) != first
    for at in rng.integers(0, max(size, 1), min(size, 20)):
        data[at] ^= 1 << int(rng.integers(8))
        assert digest(data.data) != first
        data[:] = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert digest(data.data) == first


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x89WHET", os.urandom(200)])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.whet"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not a \.whet file"):
        load(path)
    with pytest.raises(ArtifactError, match=r"m\.whet"):
        load(path)


@pytest.mark.parametrize("path", [None, 3, "", "a\0b", b"a\0b"])
def test_what_names_no_file(path: Any) -> None:
    with pytest.raises(ArtifactError):
        load(path)
    with pytest.raises(ArtifactError, match="names no file"):
        make_model(make_program(STEPS[:1], [2], chunks=1)).save(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.whet", tmp_path):
        with pytest.raises(ArtifactError, match=r"there is no such file|cannot read"):
            load(path)


@pytest.mark.parametrize(
    ("version", "age"), [((9, 0), "newer"), ((2, 7), "newer"), ((1, 0), "older")]
)
def test_other_version(tmp_path: Path, version: tuple[int, int], age: str) -> None:
    path = tmp_path / "m.whet"
    saved(path)
    data = bytearray(path.read_bytes())
    data[8:16] = np.array(version, "<u4").tobytes()
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=age):
        load(path)


def test_other_cpu(tmp_path: Path) -> None:
    path = tmp_path / "m.whet"
    program = make_program(STEPS[:1], [2], chunks=1)
    image = make_model(program)
    for target, message in (
        (TargetInfo(program.target.triple, "future", ("sse2x", "vnni9")), "lacks sse2x, vnni9"),
        (TargetInfo("riscv64-linux-gnu", "generic", ()), "riscv64"),
    ):
        other = msgspec.structs.replace(program, target=target)
        code = memoryview(bytes(image._parts.code))
        sections = {"code": code, "weights": memoryview(b"")}
        write_container(path, other, image._parts.symbols, sections, {})
        with pytest.raises(TargetError, match=message):
            load(path)


def test_manifest_is_strict() -> None:
    program = make_program(STEPS, [5], chunks=2, constants=1)
    rows = [SectionRow("weights", 0, 10_000, "")]
    manifest = make_manifest(program, {}, rows, {})
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert program_of(manifest) == program
    for damaged in (
        data.replace(b'"threads":1', b'"threads":1,"threads":1'),
        data.replace(b'"threads":1', b'"threads": 1'),
        data.replace(b'"threads":1', b'"threads":1,"more":2'),
        data.replace(b'"threads":1,', b""),
        data.replace(b'"threads":1', b'"threads":"1"'),
        data[:-1],
        b"[" * 100_000,
    ):
        with pytest.raises(ArtifactError):
            decode_manifest(damaged)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"args":[0,1,3]', '"args":[0,1,99]'),
        ('"args":[0,1,3]', '"args":[0,1,-1]'),
        ('"writes":[2]', '"writes":[3]'),
        ('"writes":[2]', '"writes":[0]'),
        ('"kind":"temp"', '"kind":"odd"'),
        ('"size":128', '"size":-128'),
        ('"size":128', '"size":140737488355328'),
        ('"size":128', '"size":"x"'),
        ('"size":128', '"size":[[1,[["//",1,0]]]]'),
        ('"offset":0}', '"offset":8}'),
        ('"offset":0}', '"offset":1048576}'),
        ('"threads":1', '"threads":5000'),
        ('"scratch_bytes":0', '"scratch_bytes":-1'),
        ('"scratch":7', '"scratch":5'),
        ('"scratch":7', '"scratch":-2'),
        ('"scratch":7', '"scratch":99'),
        ('"args":[0,1,3]', '"args":[0,1,7]'),
        ('"name":"y"', '"name":"x"'),
        ('"axes":[2,8]', '"axes":[2]'),
    ],
)
def test_manifest_that_contradicts_itself(old: str, new: str) -> None:
    program = make_program(STEPS, [5], chunks=2, constants=1)
    rows = [SectionRow("weights", 0, 128, "")]
    data = encode_manifest(make_manifest(program, {}, rows, {}))
    assert old.encode() in data
    changed = data.replace(old.encode(), new.encode())
    with pytest.raises(WhetError):
        program_of(decode_manifest(changed))


def _with_contents() -> Program:
    """Return a program that has all that came with format 2.1."""
    program = make_program(STEPS, [5], chunks=var(Dim("n")) + 1, threads=2)
    plain = Content("int64", (var(Dim("n")) + 1, as_poly(CHUNK)), "ND")
    scalar = Content("bool", (), "ND")
    buffers = [msgspec.structs.replace(b, content=plain) for b in program.buffers]
    buffers[1] = msgspec.structs.replace(buffers[1], content=scalar)
    buffers[2] = msgspec.structs.replace(buffers[2], content=None)
    first = msgspec.structs.replace(program.launches[0], fetched=(1,))
    launches = (first, *program.launches[1:])
    return msgspec.structs.replace(program, buffers=tuple(buffers), launches=launches)


def test_contents_of_buffers_round_trip() -> None:
    program = _with_contents()
    rows = [SectionRow("weights", 0, 0, "")]
    data = encode_manifest(make_manifest(program, {}, rows, {}))
    assert program_of(decode_manifest(data)) == program
    assert data.count(b'"order"') == 2, "each content stands there once"
    for old, new in (
        (b'"content":1', b'"content":2'),
        (b'"content":1', b'"content":-2'),
        (b'"fetched":[1]', b'"fetched":[3]'),
        (b'"shape":[]', b'"shape":["x"]'),
        (b'"order":"ND"', b'"order":1'),
        (b'"dtype":"bool"', b'"dtype":"boolean"'),
    ):
        assert old in data
        with pytest.raises(ArtifactError):
            program_of(decode_manifest(data.replace(old, new)))


def test_files_of_format_2_0_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.whet"
    with monkeypatch.context() as patch:
        patch.setattr("whet.program.save.MINOR", 0)
        program, _ = saved(path)
    data = path.read_bytes()
    assert struct.unpack_from("<II", data, 8) == (2, 0)
    assert b'"content' not in data and b'"fetched' not in data
    assert load(path).program == program
    newer = tmp_path / "newer.whet"
    newer.write_bytes(data[:12] + struct.pack("<I", MINOR + 1) + data[16:])
    with pytest.raises(ArtifactError, match="newer"):
        load(newer)


def _own_scratch(b: Builder, _: Program, __: Launch, thread: Value | None) -> Value:
    """Write what code of format 2.1 takes as scratch memory: the context says where all lies."""
    base = b.load(PTR, b.gep(b.param(0), "i8", context.SCRATCH), align=8)
    stride = b.load(I64, b.gep(b.param(0), "i8", context.SCRATCH_STRIDE), align=8)
    return base if thread is None else b.gep(base, "i8", b.binary("mul", stride, thread))


@pytest.mark.parametrize("threads", [1, 3])
def test_code_of_format_2_1_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    path = tmp_path / "m.whet"
    program = make_program(STEPS[:1], [2], chunks=64, threads=threads, scratch=0)
    program = msgspec.structs.replace(program, scratch_bytes=64)
    with monkeypatch.context() as patch:
        patch.setattr("whet.program.save.MINOR", 1)
        patch.setattr("whet.codegen.threads.spmd._scratch", _own_scratch)
        make_model(program).save(path)
    assert b'"scratch":' not in path.read_bytes()
    model = load(path)
    assert model.program == program
    x = np.arange(64 * CHUNK).reshape(64, CHUNK)
    want = simulate(STEPS[:1], [x, x])[2]
    for _ in range(20):
        np.testing.assert_array_equal(model({"x": x, "y": x})["o2"].reshape(-1), want)


def test_load_is_light_and_quick(tmp_path: Path) -> None:
    program = make_program(STEPS, [5], chunks=2, threads=2, constants=1)
    path = tmp_path / "m.whet"
    make_model(program, np.zeros(100 * 2**20 // 8, np.int64)).save(path)
    code = f"""
import sys
from whet.runtime.load import load
import numpy as np
model = load({str(path)!r})
x = np.ones((2, {CHUNK}), np.int64)
model({{"x": x, "y": x}})
heavy = [m for m in ("llvmlite", "onnx", "onnx_ir", "ml_dtypes", "torch") if m in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    best = min(_timed(path) for _ in range(3))
    assert best < 1.0, "loading must map, not copy"


def _timed(path: Path) -> float:
    start = time.perf_counter()
    load(path)
    return time.perf_counter() - start


def test_random_programs_round_trip() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        steps = random_steps(rng, 10, 2)
        program = make_program(steps, [11], chunks=2)
        rows = [SectionRow("weights", 0, 0, "")]
        data = encode_manifest(make_manifest(program, {}, rows, {}))
        assert program_of(decode_manifest(data)) == program
