"""Whole models compiled for named CPUs: AVX2 and AVX-512 run here, AArch64 under emulation."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import whet
from whet.codegen.targets import resolve_target
from whet.program.records import TargetInfo
from whet.runtime.cpu import runs_here
from whet.tests.emulation import Array, build_driver, needs_emulator, run_emulated
from whet.tests.target_models import CASES
from whet.tests.tolerance import assert_close

X86 = ["x86_64-unknown-linux-gnu:haswell", "x86_64-unknown-linux-gnu:cascadelake"]
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
