"""Whole models compiled for named CPUs: AVX2 and AVX-512 run here, AArch64 under emulation."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.codegen.objects.targets import resolve_target
from whet.dtypes import numpy_dtype
from whet.program.records import TargetInfo
from whet.runtime.cpu import runs_here
from whet.tests.emulation import Array, build_driver, needs_emulator, run_emulated
from whet.tests.target_models import CASES
from whet.tests.test_lower_byte_tables import alone
from whet.tests.test_lower_gate_products import expected_of, model_of, nodes_of, weights_of
from whet.tests.test_quantised_models import residual_model
from whet.tests.tolerance import assert_close

X86 = ["x86_64-unknown-linux-gnu:haswell", "x86_64-unknown-linux-gnu:cascadelake"]
DOTS = ["aarch64-linux-gnu:neoverse-n1+dotprod", "aarch64-linux-gnu:neoverse-v1+i8mm"]
ARM = ["aarch64-linux-gnu:cortex-a72", "aarch64-linux-gnu:neoverse-n1"]


@functools.cache
def inputs_of(case: str) -> dict[str, Array]:
    return CASES[case][1](np.random.default_rng(5))


@functools.cache
def expected(case: str) -> list[Array]:
    evaluator = ReferenceEvaluator(CASES[case][0]())
    return [np.asarray(a) for a in evaluator.run(None, inputs_of(case))]


def compile_case(case: str, target: str, path: Path) -> None:
    options = whet.Options(target=target, threads=2, cache_dir="")
    whet.compile(CASES[case][0](), options=options).save(path)


def check(case: str, found: dict[str, Array]) -> None:
    for got, want in zip(found.values(), expected(case), strict=True):
        assert_close(got, want, "fast", length=64, scale=float(np.abs(want).max()))


def can_run(target: str) -> bool:
    chosen = resolve_target(target)
    return runs_here(TargetInfo(chosen.triple, chosen.cpu, chosen.required))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("emulation"))


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("case", CASES)
def test_x86_targets_run_here(case: str, target: str, tmp_path: Path) -> None:
    if not can_run(target):
        pytest.skip(f"this CPU does not run code for {target}")
    compile_case(case, target, tmp_path / "m.whet")
    one = whet.load(tmp_path / "m.whet", 1)(inputs_of(case))
    two = whet.load(tmp_path / "m.whet", 2)(inputs_of(case))
    check(case, one)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


@needs_emulator
@pytest.mark.parametrize("target", ARM)
@pytest.mark.parametrize("case", CASES)
def test_arm_under_emulation(case: str, target: str, tmp_path: Path, driver: Path) -> None:
    compile_case(case, target, tmp_path / "m.whet")
    one = run_emulated(driver, tmp_path / "m.whet", inputs_of(case), threads=1)
    two = run_emulated(driver, tmp_path / "m.whet", inputs_of(case), threads=2)
    check(case, one)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def byte_products(first: str) -> tuple[onnx.ModelProto, Array, Array]:
    """Return a product whose operands are at their ends in the first rows and columns."""
    rng, limits = np.random.default_rng(6), np.iinfo(first)
    a = rng.integers(limits.min, limits.max + 1, (14, 1023)).astype(first)
    b = rng.integers(-128, 128, (1023, 37)).astype(np.int8)
    a[:2], b[:, 0], b[:, 1] = ((limits.min,), (limits.max,)), -128, 127
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    given = helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
    graph = helper.make_graph(
        [node], "bytes", [given], [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(b, "b")]
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    return model, a, a.astype(np.int64) @ b.astype(np.int64)


@needs_emulator
@pytest.mark.parametrize("first", ["uint8", "int8"])
@pytest.mark.parametrize("target", [*DOTS, ARM[0]])
def test_arm_multiplies_bytes_exactly(
    first: str, target: str, tmp_path: Path, driver: Path
) -> None:
    model, a, expected = byte_products(first)
    whet.compile(model, options=whet.Options(target=target, cache_dir="")).save(tmp_path / "m.whet")
    np.testing.assert_array_equal(
        run_emulated(driver, tmp_path / "m.whet", {"a": a})["y"], expected
    )


@needs_emulator
def test_arm_multiplies_pairs_of_bfloat16(tmp_path: Path, driver: Path) -> None:
    kind = numpy_dtype("bfloat16")
    rng = np.random.default_rng(8)
    a, b = (rng.standard_normal(s).astype(kind) for s in ((14, 515), (515, 37)))
    given = helper.make_tensor_value_info("a", onnx.TensorProto.BFLOAT16, a.shape)
    out = helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, None)
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "pairs", [given], [out], [numpy_helper.from_array(b, "b")])
    )
    options = whet.Options(target="aarch64-linux-gnu:neoverse-v1+bf16", cache_dir="")
    whet.compile(model, options=options).save(tmp_path / "m.whet")
    bits = run_emulated(driver, tmp_path / "m.whet", {"a": a})["y"]
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(bits.astype(np.float64), expected, rtol=2.0**-8, atol=1e-3)


@needs_emulator
@pytest.mark.parametrize("target", DOTS)
def test_quantised_models_under_emulation(target: str, tmp_path: Path, driver: Path) -> None:
    model = residual_model("int8", 5, 33, seed=3)
    x = (np.random.default_rng(4).standard_normal((1, 5, 9, 11)) * 3).astype(np.float32)
    whet.compile(model, options=whet.Options(target=target, cache_dir="")).save(tmp_path / "m.whet")
    here = np.rint(whet.compile(model)({"x": x})["y"] / 0.37)
    there = np.rint(run_emulated(driver, tmp_path / "m.whet", {"x": x})["y"] / 0.37)
    assert np.abs(here - there).max() <= 1
    assert (here != there).mean() < 0.01
    assert len(np.unique(there)) > 100


@needs_emulator
@pytest.mark.parametrize("kind", [onnx.TensorProto.UINT8, onnx.TensorProto.INT8])
def test_arm_looks_bytes_up(kind: int, tmp_path: Path, driver: Path) -> None:
    model = alone("SiLU", kind, (256,))
    x = np.arange(256, dtype=np.uint8).view(helper.tensor_dtype_to_np_dtype(kind))
    whet.compile(model, options=whet.Options(target=DOTS[0], cache_dir="")).save(
        tmp_path / "m.whet"
    )
    found = run_emulated(driver, tmp_path / "m.whet", {"x": x})["f_y"]
    np.testing.assert_array_equal(found, whet.compile(model)({"x": x})["f_y"])


@needs_emulator
@pytest.mark.parametrize("target", [*DOTS, ARM[0]])
def test_arm_gates_channels(target: str, tmp_path: Path, driver: Path) -> None:
    weights = weights_of(21, 40)
    model = model_of(nodes_of(), (2, 21, 9, 5), weights)
    x = np.random.default_rng(7).standard_normal((2, 21, 9, 5)).astype(np.float32)
    whet.compile(model, options=whet.Options(target=target, cache_dir="")).save(tmp_path / "m.whet")
    found = run_emulated(driver, tmp_path / "m.whet", {"x": x}, threads=2)["y"]
    assert_close(found, expected_of(weights, x, 1), "graph", length=21)
