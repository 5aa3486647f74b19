"""Fail when a Python file or function outgrows the caps that keep this code readable.

A file should have at most 400 lines and may not have more than 600; a function has at most 40
statements and 6 parameters (tests may take more fixtures). Run without arguments, or with the
folders to check.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 600
FILE_LINES_AIM = 400
FUNCTION_STATEMENTS = 40
PARAMETERS = 6
FOLDERS = ("src", "scripts", "benchmarks")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def count_statements(function: Function) -> int:
    """Count the statements of a function, its docstring and nested functions' bodies left out."""
    total = -1 if ast.get_docstring(function) is not None else 0
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        total += isinstance(node, ast.stmt)
        if not isinstance(node, Function | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))
    return total


def count_parameters(function: Function) -> int:
    """Count the parameters of a function, ``self`` and ``cls`` left out."""
    args = function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (bool(names) and names[0] in ("self", "cls"))


def check_function(function: Function, *, is_test: bool) -> Iterator[str]:
    """Yield what is too large about one function."""
    statements = count_statements(function)
    if statements > FUNCTION_STATEMENTS:
        yield f"{function.name}: {statements} statements, at most {FUNCTION_STATEMENTS}"
    parameters = count_parameters(function)
    if parameters > PARAMETERS and not is_test:
        yield f"{function.name}: {parameters} parameters, at most {PARAMETERS}"


def check_file(path: Path) -> Iterator[str]:
    """Yield one message for every cap that a file exceeds."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES}"
    for node in ast.walk(ast.parse(text, filename=str(path))):
        if isinstance(node, Function):
            for message in check_function(node, is_test="tests" in path.parts):
                yield f"{path}:{node.lineno}: {message}"


def is_long(path: Path) -> bool:
    """Tell whether a file is over what we aim at, though still allowed."""
    return path.read_text(encoding="utf-8").count("\n") > FILE_LINES_AIM


def main(arguments: list[str]) -> int:
    """Check the folders named on the command line, or all of ours."""
    folders = [Path(a) for a in arguments] or [Path(f) for f in FOLDERS if Path(f).is_dir()]
    files = sorted(f for folder in folders for f in folder.rglob("*.py"))
    if not files:
        print(f"check_sizes: no Python files in {', '.join(map(str, folders))}", file=sys.stderr)
        return 2
    messages = [message for file in files for message in check_file(file)]
    for message in messages:
        print(message)
    for file in filter(is_long, files):
        print(f"{file}: over {FILE_LINES_AIM} lines, worth splitting")
    print(f"check_sizes: {len(files)} files, {len(messages)} over a cap")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
