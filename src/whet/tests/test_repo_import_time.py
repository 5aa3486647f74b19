"""``import whet`` stays cheap, and leaves the heavy packages alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import whet

BUDGET_S = 0.1
RUNS = 5
SOURCE = Path(whet.__file__).parents[1]


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_import_time_budget() -> None:
    code = (
        "import time; start = time.perf_counter(); import whet; print(time.perf_counter() - start)"
    )
    assert min(float(_run(code)) for _ in range(RUNS)) <= BUDGET_S


def test_import_brings_nothing_heavy() -> None:
    code = "import whet\nprint(*{'numpy', 'onnx', 'onnx_ir', 'llvmlite', 'rich'} & {*sys.modules})"
    assert _run(code) == ""


@pytest.mark.parametrize("name", whet.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(whet, name) is not None
    assert name in dir(whet)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        whet.compyle  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_the_package_version() -> None:
    pyproject = SOURCE.parent / "pyproject.toml"
    assert f'version = "{whet.__version__}"' in pyproject.read_text(encoding="utf-8")


def test_a_file_is_read_before_the_compiler_is_imported() -> None:
    code = (
        "import whet.start\nprint(*{'onnx', 'onnx_ir', 'llvmlite', 'whet.driver'} & {*sys.modules})"
    )
    assert _run(code) == ""
