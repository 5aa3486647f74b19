"""Barriers and the memory plan, on random programs."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from whet.index import Dim, as_poly, var
from whet.program.context import ContextLayout, layout_of, segments_of
from whet.program.plan import MemoryPlan, check_plan, find_liveness, most_live, plan_memory
from whet.program.records import NO_SCRATCH, Buffer, BufferKind, Program
from whet.program.schedule import assign_waits
from whet.program.scratch import assign_scratch
from whet.tests.toys import make_program, random_steps


def _random_program(seed: int, steps: int = 60, *, reuse: bool = True) -> Program:
    rng = np.random.default_rng(seed)
    program = make_program(
        random_steps(rng, steps, 2), [steps + 1], chunks=var(Dim("n")), reuse=reuse, scratch=0
    )
    buffers = tuple(
        msgspec.structs.replace(b, size_bytes=b.size_bytes * int(rng.integers(1, 9)) + 4)
        for b in program.buffers
    )
    return msgspec.structs.replace(program, buffers=buffers)


@pytest.mark.parametrize("seed", range(10))
def test_plans_hold_and_share(seed: int) -> None:
    shared = _random_program(seed)
    alone = msgspec.structs.replace(shared, reuse=False)
    for n in (1, 3, 1000):
        plan, apart = plan_memory(shared, {"n": n}), plan_memory(alone, {"n": n})
        assert not check_plan(shared, {"n": n}, plan)
        assert not check_plan(alone, {"n": n}, apart)
        assert plan.arena_bytes < apart.arena_bytes


@pytest.mark.parametrize("seed", range(5))
def test_plans_need_no_further_barriers(seed: int) -> None:
    program = _random_program(seed)
    plan = plan_memory(program, {"n": 5})
    ranges = {
        b: (at, at + program.buffers[b].size_bytes.evaluate({"n": 5}))
        for b, at in plan.offsets.items()
    }
    assert assign_waits(program.launches, program.buffers, ranges) == program.launches


def test_chain_needs_two_places() -> None:
    program = make_program([("mix", k, 1) for k in (0, *range(2, 11))], [11], chunks=8, scratch=0)
    plan = plan_memory(program, {})
    assert plan.arena_bytes == 2 * 8 * 64
    assert [launch.waits for launch in program.launches] == [False] + [True] * 9


def test_independent_launches_do_not_wait() -> None:
    program = make_program([("mix", 0, 1), ("sub", 0, 1), ("mix", 2, 3)], [4], scratch=0)
    assert [launch.waits for launch in program.launches] == [False, False, True]
    assert segments_of(program.launches) == [range(2), range(2, 3)]
    assert layout_of(program) == ContextLayout(dims=0, buffers=5, launches=3, segments=2)


def test_write_after_read_and_after_write_wait() -> None:
    program = make_program([("mix", 0, 1), ("mix", 2, 1), ("mix", 0, 1)], [3])
    first, second, third = program.launches
    over = msgspec.structs.replace(third, args=(0, 1, 2))
    assert assign_waits([first, second, over], program.buffers)[2].waits
    assert assign_waits([first, over], program.buffers)[1].waits


def test_shared_ranges_wait() -> None:
    program = make_program([("mix", 0, 1), ("mix", 0, 1)], [])
    ranges = {2: (0, 64), 3: (32, 96)}
    assert not assign_waits(program.launches, program.buffers)[1].waits
    assert assign_waits(program.launches, program.buffers, ranges)[1].waits


def test_check_finds_faults() -> None:
    program = make_program([("mix", 0, 1), ("sub", 2, 1), ("mix", 2, 3)], [4], chunks=1, scratch=0)
    good = plan_memory(program, {})
    assert not check_plan(program, {}, good)
    assert check_plan(program, {}, MemoryPlan({2: 0, 3: 0}, 64)) == [
        "buffers 2 and 3 overlap while both are live"
    ]
    assert len(check_plan(program, {}, MemoryPlan({2: 8, 3: 128}, 256))) == 1
    assert len(check_plan(program, {}, MemoryPlan({2: 0, 3: 64}, 64))) == 1
    assert check_plan(program, {}, MemoryPlan({2: 0}, 64)) == ["buffer 3 has no place"]


def test_scratch_lies_where_temporaries_are_not() -> None:
    """Three values of 512 bytes live at once at the end, two when the large scratch is needed."""
    steps = [("mix", 0, 1), ("sub", 2, 1), ("mix", 2, 3), ("mix", 2, 3), ("mix", 4, 5)]
    program = make_program(steps, [6], chunks=8, scratch=0)
    buffers = list(program.buffers)
    needs = {"mix_8": 0, "sub_8": 190}
    launches = assign_scratch(program.launches, buffers, needs)
    assert [k.scratch for k in launches] == [NO_SCRATCH, 7, *[NO_SCRATCH] * 3]
    assert buffers[7] == Buffer(BufferKind.SCRATCH, as_poly(190), "scratch")
    scratched = msgspec.structs.replace(program, buffers=tuple(buffers), launches=launches)
    for threads, most in ((1, 4 * 512), (4, 4 * 512), (5, 2 * 512 + 5 * 256)):
        plan = plan_memory(scratched, {}, threads=threads)
        assert plan.arena_bytes == most
        assert not check_plan(scratched, {}, plan, threads=threads)
    few = plan_memory(scratched, {}, threads=1)
    assert check_plan(scratched, {}, few, threads=32)


def test_launches_between_two_barriers_share_scratch() -> None:
    steps = [("mix", 0, 1), ("sub", 0, 1), ("mix", 2, 3)]
    program = make_program(steps, [4], chunks=1, scratch=0)
    buffers = list(program.buffers)
    launches = assign_scratch(program.launches, buffers, {"mix_1": 10, "sub_1": 20})
    assert [k.scratch for k in launches] == [5, 5, 6]
    assert [b.size_bytes.constant for b in buffers[5:]] == [20, 10]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reuse", [True, False])
def test_plans_with_scratch_hold(seed: int, reuse: bool) -> None:
    program = _random_program(seed, reuse=reuse)
    buffers = list(program.buffers)
    needs = {x.kernel: 1000 * x.kernel.startswith("mix") for x in program.launches}
    launches = assign_scratch(program.launches, buffers, needs)
    scratched = msgspec.structs.replace(program, buffers=tuple(buffers), launches=launches)
    for threads in (1, 7):
        plan = plan_memory(scratched, {"n": 3}, threads=threads)
        assert not check_plan(scratched, {"n": 3}, plan, threads=threads)
        alone = plan_memory(program, {"n": 3}).arena_bytes
        assert alone <= plan.arena_bytes
        live = find_liveness(scratched)
        assert most_live(live, live.sizes_in({"n": 3}, threads)) <= plan.arena_bytes


def test_context_tables_are_apart() -> None:
    layout = ContextLayout(dims=9, buffers=3, launches=4, segments=2)
    places = [layout.buffer_table, layout.finished, layout.claimed, layout.size_bytes(2)]
    assert places == [384 + 128, 384 + 192, 384 + 320, 384 + 320 + 5 * 2 * 64]
