"""The driver module: its text, its arithmetic, and AArch64 under emulation."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import pytest

from whet.codegen.objects.link import link
from whet.codegen.threads.spmd import driver_text, poly_value
from whet.codegen.writing.builder import I64, PTR, Builder, Module
from whet.errors import CompileError
from whet.index import Dim, Poly, as_poly, var
from whet.program import context
from whet.program.context import layout_of
from whet.runtime.image import map_code
from whet.tests.toys import (
    CHUNK,
    assemble,
    build_image,
    make_model,
    make_program,
    random_steps,
    simulate,
)

N, M = var(Dim("n")), var(Dim("m"))
ENTRY = "\n".join(
    f"define void @{name}() {{ ret void }}" for name in ("whet_start", "whet_worker", "whet_stop")
)


@pytest.mark.parametrize(
    "poly",
    [
        as_poly(42),
        N,
        N * 3 + M * N - 7,
        (N + 15) // 16,
        (N - M) // 4,
        (N - M) % 4,
        (N + M) % 5 * 2,
        (N * N + 3) // (M + 1),
        -N // 3,
    ],
)
def test_polynomials(poly: Poly) -> None:
    module = Module()
    b = Builder(module, "f", [(PTR, "dims")], "i64")
    dims = {name: b.load(I64, b.gep(b.param(0), I64, k), 8) for k, name in enumerate(("n", "m"))}
    b.finish(poly_value(b, poly, dims))
    image = link([assemble(module.text()), assemble(ENTRY)])
    code = map_code(image.code, image.symbols)
    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code.address + image.symbols["f"])
    for n in (1, 2, 7, 16, 100):
        for m in (1, 3, 50):
            assert f((ctypes.c_int64 * 2)(n, m)) == poly.evaluate({"n": n, "m": m})


def test_one_thread_has_no_synchronisation() -> None:
    text = driver_text(make_program([("mix", 0, 1), ("sub", 2, 1)], [3]))
    for name, calls in (("whet.serial", 2), ("whet.alone", 3), ("whet.launch.1", 1)):
        body = re.split(rf"\ndefine [^\n]*@{name}\(", text)[1]
        body = body[: body.index("\n}")]
        assert body.count("call ") == calls
        for word in ("atomic", "cmpxchg", "fence", "claim", "wait"):
            assert word not in body


def test_barriers_are_where_the_program_waits() -> None:
    program = make_program([("mix", 0, 1), ("sub", 0, 1), ("mix", 2, 3)], [4])
    assert driver_text(program).count("call i1 @whet.wait(") == 2


def test_launches_without_chunks_are_left_out() -> None:
    program = make_program([("mix", 0, 1)], [2])
    launches = tuple(msgspec.structs.replace(x, chunks=as_poly(0)) for x in program.launches)
    text = driver_text(msgspec.structs.replace(program, launches=launches))
    assert "ptr @whet.launch.0" not in text


def test_kernels_with_two_signatures_are_refused() -> None:
    program = make_program([("mix", 0, 1), ("mix", 0, 1)], [3])
    other = msgspec.structs.replace(program.launches[1], args=(0, 3), writes=(1,))
    broken = msgspec.structs.replace(program, launches=(program.launches[0], other))
    with pytest.raises(CompileError, match="different arguments"):
        driver_text(broken)


def test_no_launches() -> None:
    model = make_model(make_program([], [], threads=2))
    x = np.zeros((4, CHUNK), np.int64)
    assert model({"x": x, "y": x}) == {}


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 1000])
def test_memory_functions(size: int) -> None:
    image = build_image(make_program([("mix", 0, 1)], [2]))
    code = map_code(image.code, image.symbols)
    kinds = {"memset": ctypes.c_int, "memcpy": ctypes.c_void_p, "memmove": ctypes.c_void_p}
    functions = {
        name: ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, second, ctypes.c_size_t)(
            code.address + image.symbols[name]
        )
        for name, second in kinds.items()
    }
    rng = np.random.default_rng(size)
    source = rng.integers(0, 256, size + 64, np.uint8)
    target = np.zeros(size + 64, np.uint8)
    at, start = target.ctypes.data, source.ctypes.data
    functions["memcpy"](at + 3, start + 5, size)
    np.testing.assert_array_equal(target[3 : 3 + size], source[5 : 5 + size])
    assert not target[:3].any() and not target[3 + size :].any()
    functions["memset"](at + 7, 0x1A5, size)
    assert (target[7 : 7 + size] == 0xA5).all()
    for shift in (-9, 0, 9):
        want = source.copy()
        want[20 + shift : 20 + shift + size] = source[20 : 20 + size]
        moved = source.copy()
        functions["memmove"](moved.ctypes.data + 20 + shift, moved.ctypes.data + 20, size)
        np.testing.assert_array_equal(moved, want)


_HARNESS = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
static char *image;
static int64_t *ctx;
static void *serve(void *number) {
  ((void (*)(void *, int64_t))(image + OFFSET_WORKER))(ctx, (int64_t)number);
  return 0;
}
int main(int argc, char **argv) {
  int file = open(argv[1], O_RDONLY);
  image = mmap(0, IMAGE_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
  ctx = aligned_alloc(64, (CONTEXT_BYTES + 63) / 64 * 64);
  memset(ctx, 0, CONTEXT_BYTES);
  ctx[0] = THREAD_COUNT;
  ctx[4] = (int64_t)&syscall;
  ctx[5] = (int64_t)&clock_gettime;
  ctx[6] = SPIN_NS;
  for (int b = 0; b < BUFFERS; b++) {
    int64_t *data = calloc(ELEMENTS, 8);
    for (int i = 0; i < ELEMENTS && b < 2; i++) data[i] = (i * (b + 3)) % 17 - 8;
    ctx[BUFFER_TABLE / 8 + b] = (int64_t)data;
  }
  pthread_t helpers[16];
  for (int64_t t = 1; t < THREAD_COUNT; t++) pthread_create(&helpers[t], 0, serve, (void *)t);
  for (int run = 0; run < 20; run++) ((void (*)(void *))(image + OFFSET_START))(ctx);
  ((void (*)(void *))(image + OFFSET_STOP))(ctx);
  for (int64_t t = 1; t < THREAD_COUNT; t++) pthread_join(helpers[t], 0);
  int64_t *out = (int64_t *)ctx[BUFFER_TABLE / 8 + RESULT];
  for (int i = 0; i < ELEMENTS; i++) printf("%lld\n", (long long)out[i]);
  return 0;
}
"""


@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
    reason="needs qemu-aarch64 and aarch64-linux-gnu-gcc",
)
@pytest.mark.parametrize(("threads", "spin_ns"), [(1, 9999), (3, 9999), (3, 0)])
def test_arm_under_emulation(tmp_path: Path, threads: int, spin_ns: int) -> None:
    steps = random_steps(np.random.default_rng(5), 15, 2)
    program = make_program(steps, [16], chunks=11, triple="aarch64-unknown-linux-gnu")
    image = build_image(program)
    layout = layout_of(program)
    (tmp_path / "image").write_bytes(image.code)
    (tmp_path / "main.c").write_text(textwrap.dedent(_HARNESS))
    values = {
        "IMAGE_BYTES": len(image.code),
        "CONTEXT_BYTES": layout.size_bytes(threads),
        "THREAD_COUNT": threads,
        "SPIN_NS": spin_ns,
        "BUFFERS": len(program.buffers),
        "RESULT": 16,
        "BUFFER_TABLE": layout.buffer_table,
        "ELEMENTS": 11 * CHUNK,
        **{f"OFFSET_{n.upper()}": image.symbols[f"whet_{n}"] for n in ("start", "stop", "worker")},
    }
    assert (context.THREADS, context.SPIN_NS) == (0, 48)
    defines = [f"-D{name}={value}" for name, value in values.items()]
    command = ["aarch64-linux-gnu-gcc", "-static", "-pthread", *defines, "main.c", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        ["qemu-aarch64", "./main", "image"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    index = np.arange(11 * CHUNK)
    want = simulate(steps, [index * 3 % 17 - 8, index * 4 % 17 - 8])[16]
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.int64), want)
