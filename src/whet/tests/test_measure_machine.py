"""The machine's description and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from whet.codegen.objects.targets import host_target
from whet.measure.machine import (
    LimitKernels,
    Limits,
    describe_machine,
    higher,
    measure_limits,
)


def test_description_names_cpu_and_versions() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.cpus >= 1
    assert machine.memory_bytes > 0
    assert {"numpy", "llvmlite"} <= machine.versions.keys()


@pytest.mark.parametrize("lanes", [4, host_target().lanes])
def test_multiply_add_kernel_does_its_work(lanes: int) -> None:
    kernels = LimitKernels(lanes)
    data = np.zeros(lanes * (kernels.chains + 1), np.float32)
    data[0] = 2.0
    kernels.multiply_add(data.ctypes.data, 3)
    assert (data[lanes:] == 3 * 2.0 * 2.0).all()


def test_read_kernel_adds_up_what_it_reads() -> None:
    kernels = LimitKernels()
    step = 8 * kernels.lanes
    data = np.ones(step * 4, np.int32)
    kernels.read(data.ctypes.data, 3)
    assert (data[kernels.lanes : kernels.lanes + step] == 3).all()


def test_limits_are_those_of_a_computer() -> None:
    limits = measure_limits(threads=1)
    assert limits.threads == 1
    assert limits.gflops > 1.0
    assert limits.read_gbytes > 0.1


def test_higher_takes_each_limit_by_itself() -> None:
    first = Limits(threads=2, gflops=10.0, read_gbytes=5.0)
    second = Limits(threads=2, gflops=9.0, read_gbytes=6.0)
    assert higher(first, second) == Limits(threads=2, gflops=10.0, read_gbytes=6.0)
