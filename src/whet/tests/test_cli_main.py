"""The frame of the command line: menu, errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import whet
from whet.cli import entry, exits, output
from whet.cli.main import run_command


@pytest.mark.parametrize("name", ["compile", "run", "bench", "inspect", "demo", "doctor"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([name, "--help"]) == exits.OK
    text = capsys.readouterr().out
    assert f"whet {name}" in text
    assert "--traceback" in text


def test_menu_names_all_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == exits.OK
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("compile", "run", "bench", "doctor"))
    assert "Exit codes" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == exits.OK
    assert whet.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["inspect"], ["compile", "m.onnx", "-O7"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == exits.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (whet.ModelError("x"), exits.MODEL),
        (whet.UnsupportedError("x"), exits.MODEL),
        (whet.ShapeError("x"), exits.MODEL),
        (whet.OptionError("x"), exits.USAGE),
        (whet.InputError("x"), exits.INPUT),
        (whet.ArtifactError("x"), exits.ARTIFACT),
        (whet.TargetError("x"), exits.ARTIFACT),
        (whet.ResourceError("x"), exits.ARTIFACT),
        (whet.CompileError("x"), exits.INTERNAL),
        (MemoryError(), exits.ARTIFACT),
        (ZeroDivisionError("x"), exits.INTERNAL),
        (KeyboardInterrupt(), exits.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_becomes_one_message_and_a_code(
    error: BaseException,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setitem(vars(whet), "compile", fail)
    monkeypatch.chdir(tmp_path)
    assert run_command(["compile", "m.onnx"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.strip()
    assert list(tmp_path.iterdir()) == []


def test_unknown_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["compil", "m.onnx"]) == exits.USAGE
    assert "No such command 'compil': did you mean 'compile'?" in capsys.readouterr().err
    assert run_command(["converter"]) == exits.USAGE
    assert "did you mean 'converter_lite'?" in capsys.readouterr().err
    assert run_command(["foo"]) == exits.USAGE
    assert "bisect, check, compare" in capsys.readouterr().err.replace("\n", " ")
    assert run_command(["--nonsense"]) == exits.USAGE
    assert "No such option" in capsys.readouterr().err


def test_entry_point_is_the_one_that_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["whet"].partition(":")
    assert getattr(import_module(module), name) is entry.main
    assert entry.INTERRUPTED == exits.INTERRUPTED


_INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from whet.cli.entry import main
main()
"""


def test_interrupt_while_python_imports() -> None:
    line = [sys.executable, "-c", _INTERRUPTED_IMPORT, "--version"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_traceback_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setitem(vars(whet), "compile", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError, match="boom"):
        run_command(["compile", "m.onnx", "--traceback"])


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from whet.cli.main import run_command\n"
        "run_command(['--version'])\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'llvmlite', 'rich', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2500 ms"), (0.01234, "12.34 ms"), (0.000123, "0.123 ms"), (6.26e-6, "0.00626 ms")],
)
def test_short_times_keep_digits_that_count(seconds: float, text: str) -> None:
    assert output.format_ms(seconds) == text
