"""Scripts as data: what a damaged or hostile one may not say."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from whet.errors import ArtifactError
from whet.program.make_manifest import make_manifest
from whet.program.manifest import SectionRow, decode_manifest, encode_manifest, program_of
from whet.program.records import Program
from whet.program.script import Block, Loop, Read, Run, Script
from whet.tests.flow_models import check, compiled

LOOP = """g (float[a,3] x, int64 n) => (float[b,3] y) {
    y = Loop(n, , x) <body = t (int64 i, bool c, float[r,3] v) => (bool d, float[s,3] w) {
        d = Identity(c) w = Concat<axis=0>(v, x) }> }"""


def _read_back(program: Program) -> Program:
    rows = [SectionRow("code", 4096, 1 << 20, ""), SectionRow("weights", 1 << 21, 1 << 20, "")]
    return program_of(decode_manifest(encode_manifest(make_manifest(program, {}, rows, {}))))


def _steps(script: Script, change: Callable[[Loop], Loop]) -> Script:
    steps = tuple(change(s) if isinstance(s, Loop) else s for s in script.main.steps)
    main = Block(script.main.inputs, steps, script.main.outputs)
    return msgspec.structs.replace(script, main=main)


def _body(loop: Loop, *steps: object) -> Loop:
    body = msgspec.structs.replace(loop.body, steps=(*loop.body.steps, *steps))
    return msgspec.structs.replace(loop, body=body)


def test_a_script_survives_its_manifest() -> None:
    program = compiled(LOOP).program
    assert program.script is not None
    assert _read_back(program) == program


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: msgspec.structs.replace(s, slots=2), "slot"),
        (lambda s: msgspec.structs.replace(s, slots=-1), "slots"),
        (lambda s: _steps(s, lambda k: msgspec.structs.replace(k, outputs=())), "carries"),
        (lambda s: _steps(s, lambda k: msgspec.structs.replace(k, trips=99)), "slot"),
        (lambda s: _steps(s, lambda k: _body(k, Run(7, (), ()))), "part 7"),
        (lambda s: _steps(s, lambda k: _body(k, Run(0, (), ()))), "part 0"),
        (lambda s: _steps(s, lambda k: _body(k, Read(0, ("nowhere",), ""))), "dimension"),
        (lambda s: None, "part 0"),
    ],
)
def test_contradictions_are_found(change: Callable[[Script], Script | None], words: str) -> None:
    program = compiled(LOOP).program
    assert program.script is not None
    with pytest.raises(ArtifactError, match=words):
        _read_back(msgspec.structs.replace(program, script=change(program.script)))


def test_parts_must_cover_the_launches() -> None:
    program = compiled(LOOP).program
    with pytest.raises(ArtifactError, match="launches"):
        _read_back(msgspec.structs.replace(program, parts=()))
    shifted = msgspec.structs.replace(program.parts[0], begin=1)
    with pytest.raises(ArtifactError, match="follow"):
        _read_back(msgspec.structs.replace(program, parts=(shifted, *program.parts[1:])))


def test_nesting_is_bounded() -> None:
    program = compiled(LOOP).program
    assert program.script is not None
    (base,) = [s for s in program.script.main.steps if isinstance(s, Loop)]
    loop = base
    for _ in range(70):
        loop = _body(base, loop)
    deep = _steps(program.script, lambda _: loop)
    with pytest.raises(ArtifactError, match=r"deep|recursion|damaged"):
        _read_back(msgspec.structs.replace(program, script=deep))


def test_an_input_may_have_no_elements_where_data_decides() -> None:
    model = compiled(LOOP)
    x = np.ones((1, 3), np.float32)
    check(model, {"x": x, "n": 2}, np.ones((3, 3), np.float32))
    check(model, {"x": x[:0], "n": 2}, x[:0])


def test_a_scan_with_a_batch() -> None:
    text = """<ir_version: 3, opset_import: ["" : 8]>
    g (float[2,1] s, float[2,3,1] x) => (float[2,1] y, float[2,3,1] z) {
        y, z = Scan<num_scan_inputs=1, body = b (float[1] t, float[1] e) => (float[1] u, float[1] o)
            { u = Add(t, e) o = Mul(u, e) }>(, s, x) }"""
    import onnx.parser

    import whet

    model = whet.compile(onnx.parser.parse_model(text), options=whet.Options(threads=1))
    rng = np.random.default_rng(2)
    s = rng.standard_normal((2, 1)).astype(np.float32)
    x = rng.standard_normal((2, 3, 1)).astype(np.float32)
    states = s[:, None] + x.cumsum(1)
    check(model, {"s": s, "x": x}, states[:, -1], states * x)
