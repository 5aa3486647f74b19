"""The vector maths on other targets: no calls in the assembly, right results under emulation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from whet.codegen.vmath import FUNCTIONS
from whet.tests.vmath_harness import (
    DTYPES,
    assembly,
    compiled,
    loops,
    machine,
    optimised,
    reference,
    samples,
    ulp_errors,
)

TARGETS = [
    ("x86_64-linux-gnu", "haswell", 8),
    ("x86_64-linux-gnu", "skylake-avx512", 16),
    ("aarch64-linux-gnu", "cortex-a72", 4),
]
UNARY = sorted(n for n, f in FUNCTIONS.items() if f.arity == 1 and n != "exp_nonpositive")
HOT = ["exp", "exp_nonpositive", "sigmoid", "tanh", "gelu_tanh"]
CALL = re.compile(r"^\s+(call\w*|bl|blr)\s.*$", re.MULTILINE)
DRIVER = """
#include <stdio.h>
#include <stdlib.h>
{declarations}
int main(int argc, char **argv) {{
    void (*table[])(void *, void *, long) = {{ {names} }};
    long count = atol(argv[1]), size = atol(argv[2]);
    char *x = malloc(count * size), *y = malloc(count * size);
    if (fread(x, size, count, stdin) != (size_t)count) return 1;
    for (unsigned k = 0; k < sizeof table / sizeof *table; k++) {{
        table[k](y, x, count);
        fwrite(y, size, count, stdout);
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("type_", ["float", "double"])
@pytest.mark.parametrize(("triple", "cpu", "lanes"), TARGETS)
def test_nothing_is_called(triple: str, cpu: str, lanes: int, type_: str) -> None:
    count = lanes if type_ == "float" else lanes // 2
    assert not CALL.findall(assembly(loops(sorted(FUNCTIONS), type_, count), triple, cpu))


@pytest.mark.parametrize("name", HOT)
@pytest.mark.parametrize(("triple", "cpu", "lanes"), TARGETS)
def test_hot_functions_do_not_spill(triple: str, cpu: str, lanes: int, name: str) -> None:
    text = assembly(loops([name], "float", lanes), triple, cpu)
    assert not re.findall(r"\(%rsp\)|\[sp", text)


@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
    reason="needs qemu-aarch64 and a cross compiler",
)
@pytest.mark.parametrize("type_", ["float", "double"])
def test_neon_results_under_emulation(type_: str, tmp_path: Path) -> None:
    dtype = DTYPES[type_]
    wide = np.float64 if type_ == "float" else np.longdouble
    x = samples(dtype, 3_000)
    x = x[: x.size // 4 * 4]
    results = _emulate(type_, x, tmp_path)
    for name, got in zip(UNARY, results, strict=True):
        np.testing.assert_array_equal(got, compiled(name, type_, 8)(x), err_msg=name)
        function = FUNCTIONS[name]
        floor = function.floor_f32 if type_ == "float" else function.floor_f64
        bound = function.max_ulp_f32 if type_ == "float" else function.max_ulp_f64
        assert ulp_errors(got, reference(name, x.astype(wide)), floor).max() <= bound, name


def _emulate(type_: str, x: np.ndarray, folder: Path) -> np.ndarray:
    """Run every function of one operand on NEON; returns a row for each."""
    text = loops(UNARY, type_, 4 if type_ == "float" else 2)
    image = machine("aarch64-linux-gnu", "cortex-a72").emit_object(optimised(text))
    (folder / "f.o").write_bytes(image)
    source = DRIVER.format(
        declarations="\n".join(f"void f_{n}(void *, void *, long);" for n in UNARY),
        names=", ".join(f"f_{n}" for n in UNARY),
    )
    (folder / "main.c").write_text(source)
    build = ["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", "run", "main.c", "f.o"]
    subprocess.run(build, cwd=folder, check=True)
    command = ["qemu-aarch64", "./run", str(x.size), str(x.itemsize)]
    done = subprocess.run(command, cwd=folder, check=True, input=x.tobytes(), capture_output=True)
    return np.frombuffer(done.stdout, x.dtype).reshape(len(UNARY), -1)
