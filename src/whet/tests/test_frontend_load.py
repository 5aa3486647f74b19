"""Loading: sources, canonical form, shape binding, and refusal of damaged or hostile models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from whet.errors import ModelError, OptionError, ShapeError, UnsupportedError
from whet.frontend.load import load_model
from whet.graph.edit import constant
from whet.graph.opset import canonical_opset
from whet.graph.text import graph_text

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3] x) => (float[N,2] y) <float[3,2] w = {1,2,3,4,5,6}> { y = MatMul(x, w) }"""


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def refusal(source: object, **options: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(source, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    proto = parse(TEXT)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    sources = [proto, proto.SerializeToString(), path, str(path), ir.from_proto(proto)]
    texts = {graph_text(load_model(s)) for s in sources}
    assert len(texts) == 1


def test_the_source_is_not_changed() -> None:
    proto = parse(TEXT)
    before = proto.SerializeToString()
    load_model(proto, shapes={"x": (4, 3)})
    assert proto.SerializeToString() == before
    model = ir.from_proto(proto)
    text = graph_text(model)
    load_model(model, shapes={"x": (4, 3)})
    assert graph_text(model) == text
    assert model.opset_imports[""] == 17


def test_canonical_form() -> None:
    model = load_model(
        parse("""<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[2] x) => (float[2] y) { c = Constant<value_floats=[1.0, 2.0]>()
        a = f.twice(x) y = Add(a, c) }
        <domain: "f", opset_import: ["": 17]> twice (u) => (v) { v = Add(u, u) }""")
    )
    assert model.opset_imports[""] == canonical_opset()
    assert not model.functions
    assert [n.op_type for n in model.graph] == ["Add", "Add"]
    assert len({n.name for n in model.graph}) == 2
    assert "c_const" in model.graph.initializers


def test_a_constant_output_is_a_copy() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[1] y) '
    model = load_model(parse(text + "{ y = Constant<value_floats=[1.0]>() }"))
    assert [n.op_type for n in model.graph] == ["Identity"]
    assert model.graph.outputs[0].name == "y"


def test_functions_of_another_opset_are_inlined() -> None:
    model = load_model(
        parse("""<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[2,3] x) => (float[2] y) { y = f.total(x) }
        <domain: "f", opset_import: ["": 11]> total (u) => (v)
        { v = ReduceSum<axes=[1], keepdims=0>(u) }""")
    )
    assert [n.op_type for n in model.graph] == ["ReduceSum"] or len(model.graph) == 2
    assert model.graph.outputs[0].shape == [2]


def test_inputs_with_a_default_become_constants() -> None:
    proto = parse(TEXT)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [3, 2]))
    assert [v.name for v in load_model(proto).graph.inputs] == ["x"]


def test_unsorted_nodes_are_sorted() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
    g (float[2] x) => (float[2] y) { y = Relu(a) a = Neg(x) }""")
    assert [n.op_type for n in load_model(proto).graph] == ["Neg", "Relu"]


def test_a_subgraph_survives() -> None:
    model = load_model(
        parse("""<ir_version: 8, opset_import: ["": 12]>
        g (bool c, float[2,3] x) => (float[2,1] y) {
          y = If(c) <
            then_branch = t () => (float[2,1] u) { u = ReduceSum<axes=[1]>(x) },
            else_branch = e () => (float[2,1] v)
            { w = Softmax<axis=0>(x) v = ReduceMean<axes=[1]>(w) }
          > }""")
    )
    then = model.graph[0].attributes["then_branch"].as_graph()
    assert [n.op_type for n in then] == ["Constant", "ReduceSum"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_shapes_fix_every_dim_of_that_name() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
    g (float[B,S] a, float[B,T] b) => (float[B,U] y) { y = Concat<axis=1>(a, b) }""")
    model = load_model(proto, shapes={"a": (2, "L")})
    assert graph_text(model).splitlines()[:2] == [
        "input  %a: f32[2,L]",
        "input  %b: f32[2,T]",
    ]
    full = load_model(proto, shapes={"a": (2, 3), "b": (2, 4)})
    assert full.graph.outputs[0].shape == [2, 7]


@pytest.mark.parametrize(
    ("shapes", "error", "words"),
    [
        ({"z": (1, 3)}, OptionError, "no input 'z'"),
        ({"x": (1, 3, 3)}, ShapeError, "rank 3"),
        ({"x": (1, 4)}, ShapeError, "dim 1 is fixed to 3"),
        ({"x": (1, "C")}, ShapeError, "dim 1 is fixed to 3"),
        ({"x": (-1, 3)}, ShapeError, "-1 is not a dim"),
        ({"x": (1.5, 3)}, ShapeError, "1.5 is not a dim"),
    ],
)
def test_shapes_that_do_not_fit(
    shapes: dict[str, tuple[int | str, ...]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_model(parse(TEXT), shapes=shapes)


def test_contradicting_symbols() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
    g (float[B] a, float[B] b) => (float[B] y) { y = Add(a, b) }""")
    with pytest.raises(ShapeError, match="the dim 'B' is 3 here and 2 in another place"):
        load_model(proto, shapes={"a": (2,), "b": (3,)})


def test_contradicting_model() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
    g (float[2,3] a, float[4,5] b) => (float[2,5] y) { y = MatMul(a, b) }""")
    with pytest.raises(ShapeError, match="contradict"):
        load_model(proto)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    assert "no such model file" in str(refusal(tmp_path / "none.onnx"))
    assert "folder" in str(refusal(tmp_path))
    assert "empty" in str(refusal(b""))
    assert "not an ONNX model" in str(refusal(b"\x89PNG\r\n\x1a\n" + bytes(64)))
    assert "cannot load" in str(refusal(17))


def test_truncation_at_every_offset() -> None:
    data = parse(TEXT).SerializeToString()
    for end in range(len(data)):
        refusal(data[:end])


def test_random_byte_flips_never_crash() -> None:
    data = parse(TEXT).SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            load_model(bytes(damaged))
        except (ModelError, UnsupportedError, ShapeError):
            continue


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{ a = Relu(b) b = Relu(a) y = Add(a, x) }", "cycle"),
        ("{ y = Relu(nothing) }", "used before anything produces it"),
        ("{ y = Relu(x) y = Neg(x) }", "produced twice"),
        ("{ z = Relu(x) }", "nothing produces the output 'y'"),
    ],
)
def test_broken_graphs(body: str, words: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {body}'
    assert words in str(refusal(parse(text)))


def test_versions_and_domains() -> None:
    proto = parse(TEXT)
    proto.opset_import[0].version = 0
    assert "opset 0" in str(refusal(proto))
    proto.opset_import[0].version = 999
    assert "opset 999" in str(refusal(proto))
    del proto.opset_import[:]
    assert "which opset" in str(refusal(proto))
    proto = parse(TEXT)
    proto.graph.node[0].domain = "elsewhere"
    assert "does not import the domain 'elsewhere'" in str(refusal(proto))


def test_all_unknown_operators_are_listed() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17, "com.x": 1]>
    g (float[2] x) => (float[2] y) { a = com.x.Foo(x) b = Bar(a) y = com.x.Foo(b) }""")
    with pytest.raises(UnsupportedError) as caught:
        load_model(proto)
    assert "Bar (1×" in str(caught.value)
    assert "com.x::Foo (2×" in str(caught.value)


def test_recursive_functions() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17, "f": 1]>
    g (float[2] x) => (float[2] y) { y = f.a(x) }
    <domain: "f", opset_import: ["": 17, "f": 1]> a (u) => (v) { v = f.b(u) }
    <domain: "f", opset_import: ["": 17, "f": 1]> b (u) => (v) { v = f.a(u) }""")
    assert "calls itself" in str(refusal(proto))


def test_constants_of_the_wrong_size() -> None:
    proto = parse(TEXT)
    tensor = proto.graph.initializer[0]
    tensor.dims[0] = 4
    assert "needs" in str(refusal(proto))
    tensor.dims[0] = 1 << 62
    assert "elements" in str(refusal(proto))
    tensor.dims[0] = -1
    assert "shape" in str(refusal(proto))
    proto = parse(TEXT)
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert "two initializers" in str(refusal(proto))


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights lie in ``w.bin`` beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    save_with_location(folder, "w.bin")
    return folder


def save_with_location(folder: Path, location: str, **entries: str) -> None:
    proto = parse(TEXT)
    tensor = proto.graph.initializer[0]
    del tensor.float_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())


def test_external_data(external: Path) -> None:
    model = load_model(external / "m.onnx")
    array = constant(model.graph.initializers["w"])
    assert array is not None
    np.testing.assert_array_equal(array, np.arange(6, dtype=np.float32).reshape(3, 2))
    data = (external / "m.onnx").read_bytes()
    assert "folder is unknown" in str(refusal(data))
    load_model(data, base_dir=external)


def test_external_data_that_leaves_the_folder(external: Path) -> None:
    secret = external.parent / "secret.bin"
    secret.write_bytes(bytes(24))
    (external / "link.bin").symlink_to(secret)
    (external / "sub").symlink_to(external.parent)
    os.link(secret, external / "hard.bin")
    faults = {
        "../secret.bin": "not a path inside",
        str(secret): "not a path inside",
        "sub/../w.bin": "not a path inside",
        "": "not a path inside",
        "link.bin": "symbolic link",
        "sub/secret.bin": "symbolic link",
        "hard.bin": "hard-linked",
        "none.bin": "missing",
    }
    for location, words in faults.items():
        save_with_location(external, location)
        assert words in str(refusal(external / "m.onnx")), location


@pytest.mark.parametrize(
    "entries",
    [{"offset": "4"}, {"offset": "-4"}, {"length": str(2**50)}, {"offset": "x"}, {"length": "4"}],
)
def test_external_data_out_of_bounds(external: Path, entries: dict[str, str]) -> None:
    save_with_location(external, "w.bin", **entries)
    assert "external data" in str(refusal(external / "m.onnx"))
