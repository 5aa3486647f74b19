"""Schedules that are worth trying, in a fixed order: register tiles first, then what is around."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from msgspec.structs import replace

from whet.kernel.integer_winograd_schedule import (
    IntegerConvolution,
    Plan,
    fits_integers,
    integer_plans,
)
from whet.kernel.paired_schedule import PairedWork, paired_tile, paired_variants
from whet.kernel.pipelining import choose_schedule, pipelined_variants
from whet.kernel.schedule import (
    MAX_VECTORS,
    NEAR_STEPS,
    Work,
    cycles,
    most_rows,
    tile_of_shape,
)
from whet.kernel.schedules import Answer, Question, answer_of, fits
from whet.kernel.spec import Tile
from whet.kernel.winograd_schedule import sizes_for, winograd_of_size
from whet.kernel.winograd_work import Convolution

WAYS = 2
"""Schedules of Winograd's algorithm in integers that are tried of each width."""
SHAPES = 4
"""Register tiles that are tried, the best by the cost model."""


def candidates(question: Question, current: Answer) -> list[Answer]:
    """Return schedules other than the current one, each once.

    Args:
        question: what they are for.
        current: the fastest so far; its neighbours are among them.
    """
    if isinstance(question.work, Work):
        made = _of_product(question, question.work, current)
    elif isinstance(question.work, PairedWork):
        made = _of_pairs(question, question.work, current)
    elif isinstance(question.work, IntegerConvolution):
        made = _of_integers(question, question.work, current)
    else:
        made = _of_convolution(question, question.work, current)
    return [answer for answer in dict.fromkeys(made) if answer != current]


def _of_product(question: Question, work: Work, current: Answer) -> Iterator[Answer]:
    target, tile = question.target, current.tile
    assert tile is not None, "products always have a tile"
    default = choose_schedule(work, target, question.threads)
    shapes = _shapes(question, work)
    others = (tile_of_shape(work, target, question.threads, shape) for shape in shapes)
    around = chain(_neighbours(tile), _orders(tile, work), pipelined_variants(tile, work, target))
    for option in chain([default], others, around):
        if fits(option, work, target):
            yield Answer(0, option)


def _of_pairs(question: Question, work: PairedWork, current: Answer) -> Iterator[Answer]:
    """Return the plain product, the default in pairs and what is around the current one."""
    yield Answer()
    default = paired_tile(work, question.target, question.threads)
    tile = current.tile or default
    if tile is not None:
        for option in (tile, *paired_variants(tile, work, question.target)):
            yield Answer(0, option)


def _of_convolution(question: Question, work: Convolution, current: Answer) -> Iterator[Answer]:
    """Return the plain product, all sizes of Winograd tiles and what is around the current."""
    yield Answer()
    for size in sizes_for(work, question.target):
        yield Answer(size, winograd_of_size(work, question.target, question.threads, size))
    if current.tile is not None:
        for option in _neighbours(current.tile):
            near = option.near != current.tile.near  # which Winograd kernels do not look at
            whole = work.filtering(current.size).whole
            if whole and (option.panels, option.prefetch) == (
                current.tile.panels,
                current.tile.prefetch,
            ):
                continue  # nor at the rest, where tiles are images
            if not near and option.rows <= most_rows(question.target, option.vectors):
                yield Answer(current.size, option)


def _of_integers(question: Question, work: IntegerConvolution, current: Answer) -> Iterator[Answer]:
    """Return the plain product, the best ways of Winograd's algorithm and what is around one."""
    yield Answer()
    target = question.target
    for plan in _of_each_way(integer_plans(work, target, question.threads)):
        yield answer_of(plan)
    if current.tile is None:
        return
    tile = current.tile
    around = [Plan(current.size, t, current.in_registers) for t in _around_integers(tile)]
    sizes = (2 * current.size, -(-current.size // 2))
    around += [Plan(size, tile, current.in_registers) for size in sizes]
    for plan in around:
        if fits_integers(plan, work, target) and plan.tile.rows <= max(
            most_rows(target, plan.tile.vectors), 1
        ):
            yield answer_of(plan)


def _of_each_way(plans: list[Plan]) -> Iterator[Plan]:
    """Return the best schedules of each width and place of the taps, in an order of the best."""
    seen: dict[tuple[int, bool], int] = {}
    for plan in plans:
        way = plan.tile.vectors, plan.in_registers
        seen[way] = seen.get(way, 0) + 1
        if seen[way] <= WAYS:
            yield plan


def _around_integers(tile: Tile) -> Iterator[Tile]:
    """Return schedules of integers that differ in one thing."""
    for panels in (2 * tile.panels, -(-tile.panels // 2)):
        yield replace(tile, panels=panels)
    for prefetch in (0, 1, 2):
        yield replace(tile, prefetch=prefetch)
    for block in (2 * tile.block, tile.block // 2):
        yield replace(tile, block=block)


def _shapes(question: Question, work: Work) -> list[tuple[int, int]]:
    """Return the register tiles with the least estimated time, of different widths first."""
    target = question.target
    rated = []
    for vectors in range(1, min(MAX_VECTORS, -(-work.cols // target.lanes)) + 1):
        tallest = min(most_rows(target, vectors), work.rows)
        rows = min(range(1, tallest + 1), key=lambda r: cycles(work, target, r, vectors), default=0)
        if rows:
            rated.append((cycles(work, target, rows, vectors), rows, vectors))
    return [(rows, vectors) for _, rows, vectors in sorted(rated)[:SHAPES]]


def _neighbours(tile: Tile) -> Iterator[Tile]:
    """Return schedules that differ in one thing."""
    for row_items in (2 * tile.row_items, -(-tile.row_items // 2)):
        yield replace(tile, row_items=row_items)
    for panels in (2 * tile.panels, -(-tile.panels // 2)):
        yield replace(tile, panels=panels)
    for unroll in (2 * tile.unroll, tile.unroll // 2):
        if unroll:
            yield replace(tile, unroll=unroll)
    for prefetch in (0, 1, 2):
        yield replace(tile, prefetch=prefetch)
    for near in (0, NEAR_STEPS):
        yield replace(tile, near=near)
    if tile.rows > 1:
        yield replace(tile, rows=tile.rows - 1)


def _orders(tile: Tile, work: Work) -> Iterator[Tile]:
    """Return other orders of the loops: chunks by rows or columns, the depth in blocks or whole."""
    yield replace(tile, by_rows=not tile.by_rows)
    for parts in (1, 2, 4):
        size, rest = divmod(work.depth, parts)
        block = 0 if parts == 1 else size
        if not rest and block % tile.unroll == 0:
            yield replace(tile, block=block)
