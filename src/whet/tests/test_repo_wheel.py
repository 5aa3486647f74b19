"""The wheel, installed in a clean environment, runs a compiled file without ONNX and LLVM."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.tests.small_models import layer_model, run_layer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[3]

_RUN = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"onnx", "onnx_ir", "llvmlite"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import whet
assert whet.__file__.startswith(sys.prefix), whet.__file__
model = whet.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], model({"x": x})["y"])
"""


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the build backend, without the network."""
    folder = tmp_path_factory.mktemp("dist")
    code = (
        "import os, sys; os.chdir(sys.argv[1])\n"
        "from hatchling.build import build_wheel; build_wheel(sys.argv[2])"
    )
    _run(sys.executable, "-c", code, ROOT, folder)
    (found,) = folder.glob("whet-*.whl")
    return found


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel; NumPy is this environment's."""
    folder = tmp_path_factory.mktemp("venv")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    outside = Path(np.__file__).parents[1]
    (packages / "outside.pth").write_text(f"{outside}\n")
    return python


def test_wheel_is_pure_and_holds_no_tests(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "whet/py.typed" in names
    assert "whet/cli/main.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("/tests/" in name for name in names)


def test_compiled_file_runs_without_compiler(clean_python: Path, tmp_path: Path) -> None:
    x = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "x.npy", x)
    options = whet.Options(threads=1, cache_dir="")
    whet.compile(layer_model(), options=options).save(tmp_path / "m.whet")
    files = (tmp_path / "m.whet", tmp_path / "x.npy", tmp_path / "y.npy")
    _run(clean_python, "-I", "-c", _RUN, *files)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), run_layer(x), rtol=1e-5, atol=1e-6)


def test_command_line_runs_from_the_wheel(clean_python: Path) -> None:
    _run(clean_python, "-I", "-m", "whet.cli.main", "--version")
    _run(clean_python, "-I", "-m", "whet.cli.main", "doctor")
