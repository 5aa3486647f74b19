"""Models compiled for another machine, and what a target is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.codegen.objects.targets import host_target, resolve_target
from whet.program.records import TargetInfo
from whet.runtime.cpu import host_architecture, runs_here
from whet.runtime.model import CompiledModel
from whet.tests.small_models import layer_model, write_layer

TARGETS = {
    "x86_64": "x86_64-unknown-linux-gnu:haswell",
    "aarch64": "aarch64-linux-gnu:neoverse-n1",
}
FOREIGN = next(t for a, t in TARGETS.items() if a != host_architecture())
X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)


def compile_foreign() -> CompiledModel:
    return whet.compile(layer_model(), options=whet.Options(target=FOREIGN, threads=2))


def test_foreign_model_is_saved_and_inspected(tmp_path: Path) -> None:
    model = compile_foreign()
    model.save(tmp_path / "m.whet")
    opened = whet.load(tmp_path / "m.whet", foreign=True)
    for each in (model, opened):
        assert each.stats.target == FOREIGN
        assert each.stats.code_bytes > 0
        assert each.stats.launches == 1
        assert [spec.name for spec in each.inputs] == ["x"]
        with pytest.raises(whet.TargetError, match="the code is for"):
            each({"x": X})
        with pytest.raises(whet.TargetError, match="the code is for"):
            each.profile_run({"x": X})
    opened.save(tmp_path / "again.whet")
    assert (tmp_path / "again.whet").read_bytes() == (tmp_path / "m.whet").read_bytes()


def test_foreign_file_does_not_load(tmp_path: Path) -> None:
    compile_foreign().save(tmp_path / "m.whet")
    with pytest.raises(whet.TargetError, match="this machine is"):
        whet.load(tmp_path / "m.whet")


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(Path("m.onnx"))
    np.save("x.npy", X)
    assert run_command(["compile", "m.onnx", "--target", FOREIGN]) == exits.OK
    capsys.readouterr()
    assert run_command(["inspect", "m.whet", "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["compiled"]["stats"]["target"] == FOREIGN
    for source in (["m.whet"], ["m.onnx", "--target", FOREIGN]):
        assert run_command(["run", *source, "--input", "x.npy"]) == exits.ARTIFACT
        assert "the code is for" in capsys.readouterr().err


def test_this_machine_has_what_its_code_requires() -> None:
    host = host_target()
    assert runs_here(TargetInfo(host.triple, host.cpu, host.required))


@pytest.mark.parametrize(
    ("name", "vector_bytes", "registers", "feature"),
    [
        ("x86_64-unknown-linux-gnu:haswell", 32, 16, "avx2"),
        ("x86_64-linux-gnu:znver4", 64, 32, "avx512bw"),
        ("x86_64-unknown-linux-gnu:cascadelake", 64, 32, "avx512bw"),
        ("aarch64-linux-gnu:cortex-a72", 16, 32, "neon"),
        ("aarch64-linux-gnu:neoverse-v1", 16, 32, "lse"),
    ],
)
def test_named_targets(name: str, vector_bytes: int, registers: int, feature: str) -> None:
    target = resolve_target(name)
    assert (target.vector_bytes, target.registers) == (vector_bytes, registers)
    assert feature in target.required


@pytest.mark.parametrize(
    ("cpu", "dot", "required"),
    [
        ("haswell", "pairs", None),
        ("skylake-avx512", "pairs", None),
        ("cascadelake", "vnni", "avx512vnni"),
        ("znver4", "vnni", "avx512vnni"),
        ("alderlake", "vnni", "avxvnni"),
    ],
)
def test_named_targets_multiply_bytes_as_the_cpu_does(
    cpu: str, dot: str, required: str | None
) -> None:
    target = resolve_target(f"x86_64-linux-gnu:{cpu}")
    assert target.dot == dot
    assert {f for f in target.required if "vnni" in f} == ({required} if required else set())


def test_old_arm_needs_no_new_atomics() -> None:
    assert resolve_target("aarch64-linux-gnu:cortex-a72").required == ("neon",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x86_64-linux-gnu", "names no CPU"),
        ("x86_64-linux-gnu:cascadelake+i8mm", "which makes no difference"),
        ("aarch64-linux-gnu:neoverse-n1+dotprd", "which makes no difference"),
        ("x86_64-linux-gnu:hasswell", "LLVM knows no CPU 'hasswell'"),
        ("aarch64-linux-gnu:neoverse-n99", "LLVM knows no CPU 'neoverse-n99'"),
        ("x86_64-linux-gnu:nehalem", "neither AVX2"),
        ("riscv64-linux-gnu:generic", "no code generator"),
    ],
)
def test_what_no_target_is(name: str, message: str) -> None:
    with pytest.raises(whet.TargetError, match=message):
        resolve_target(name)


@pytest.mark.parametrize(
    ("name", "dot"),
    [
        ("aarch64-linux-gnu:neoverse-n1+dotprod", "dotprod"),
        ("aarch64-linux-gnu:neoverse-v1+dotprod+i8mm", "i8mm"),
        ("x86_64-linux-gnu:skylake-avx512+avx512vnni", "vnni"),
        ("x86_64-linux-gnu:haswell+avxvnni", "vnni"),
    ],
)
def test_a_name_can_ask_for_dot_products(name: str, dot: str) -> None:
    target = resolve_target(name)
    assert target.dot == dot
    assert set(name.split("+")[1:]) <= set(target.required)
    assert resolve_target(name.split("+")[0]).dot not in (dot, "vnni", "i8mm", "dotprod")


def test_a_name_can_ask_for_tables_of_bytes() -> None:
    name = "x86_64-linux-gnu:icelake-server"
    assert not resolve_target(name).byte_tables
    asked = resolve_target(f"{name}+avx512vbmi")
    assert asked.byte_tables
    assert "avx512vbmi" in asked.required
    assert "avx512vbmi" not in resolve_target(name).required
