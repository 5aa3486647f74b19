"""Which schedule a product gets: what the tuner found to be faster here, or the cost model's.

A question is the size of the work and what of the machine counts; its text is the key by which
answers are kept, so that an answer found for one model serves every other that asks the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from whet.errors import OptionError
from whet.kernel.integer_winograd_schedule import (
    IntegerConvolution,
    Plan,
    choose_integer_winograd,
    fits_integers,
)
from whet.kernel.paired_schedule import PairedWork, fits_pairs, paired_tile
from whet.kernel.pipelining import choose_schedule, fits_pipelined
from whet.kernel.schedule import MAX_VECTORS, MOST_EDGE_ROWS, Work, most_rows
from whet.kernel.spec import Tile
from whet.kernel.winograd_schedule import choose_winograd, sizes_for
from whet.kernel.winograd_work import Convolution
from whet.target import Target

MOST_UNROLL = 16
MOST_LINES = 16
MOST_NEAR = 64


KINDS: Mapping[type, str] = MappingProxyType(
    {
        Work: "product",
        PairedWork: "product in pairs",
        Convolution: "convolution",
        IntegerConvolution: "convolution of bytes",
    }
)
"""What a question is about."""


class Question(msgspec.Struct, frozen=True):
    """What a schedule is chosen for.

    Attributes:
        work: a product, one that may be taken in pairs, or a 3x3 convolution, of bytes or not, that
            Winograd's algorithm may compute.
        target: processor.
        threads: threads that chunks are cut for.
    """

    work: Work | PairedWork | Convolution | IntegerConvolution
    target: Target
    threads: int

    @property
    def key(self) -> str:
        """A text that is equal for equal questions."""
        kind = KINDS[type(self.work)]
        names = type(self.work).__match_args__
        sizes = " ".join(f"{name}={int(getattr(self.work, name))}" for name in names)
        target = self.target
        machine = f"{target.features} {target.vector_bytes} {target.registers} {target.dot}"
        digest = hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()
        return f"{kind} {sizes} | {target.cpu} {digest} {self.threads} threads"


class Answer(msgspec.Struct, frozen=True):
    """A schedule.

    Attributes:
        size: output pixels of a Winograd tile along one side, or of bytes tiles in a chunk; 0 for
            the plain product.
        tile: tiles and chunks; ``None`` where a convolution, or a product that may be taken in
            pairs, is a plain product, which is a question of its own.
        in_registers: whether weights of bytes are made in registers.
    """

    size: int = 0
    tile: Tile | None = None
    in_registers: bool = False


class Schedules(msgspec.Struct, frozen=True):
    """Answers to all questions of a compilation, and who asked.

    Attributes:
        threads: threads that chunks are cut for.
        known: what the tuner found, by key.
        rewrites: how many rewrites of kernels lowering may make, by their names; ``None`` for all
            that gain, and none of those that are not named.
        asked: filled in while kernels are chosen: questions by the nodes that they are about, and
            the answers that they got.
    """

    threads: int
    known: Mapping[str, Answer] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    rewrites: Mapping[str, int | None] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    asked: dict[tuple[str, ...], dict[Question, Answer]] = msgspec.field(default_factory=dict)


class Chooser(msgspec.Struct, frozen=True):
    """Chooses the schedule of one kernel.

    Attributes:
        schedules: answers.
        target: processor.
        nodes: the model's nodes that the kernel computes.
    """

    schedules: Schedules
    target: Target
    nodes: tuple[str, ...] = ()

    def tile(self, work: Work, target: Target | None = None) -> Tile:
        """Return the schedule of a product; ``target`` is the processor, if with fewer registers.

        Raises:
            OptionError: the answer that is known cannot be carried out.
        """
        question = Question(work, target or self.target, self.schedules.threads)
        answer = self.schedules.known.get(question.key)
        if answer is None:
            answer = Answer(0, choose_schedule(work, question.target, question.threads))
        plain = not answer.size and not answer.in_registers
        if not plain or answer.tile is None or not fits(answer.tile, work, question.target):
            raise _impossible(question)
        self._note(question, answer)
        return answer.tile

    def paired(self, work: PairedWork) -> Tile | None:
        """Return the schedule of a product in pairs, ``None`` for the plain product.

        Raises:
            OptionError: the answer that is known cannot be carried out.
        """
        question = Question(work, self.target, self.schedules.threads)
        answer = self.schedules.known.get(question.key)
        if answer is None:
            answer = Answer(0, paired_tile(work, question.target, question.threads))
        plain = not answer.size and not answer.in_registers
        tile = answer.tile
        if not plain or (tile is not None and not _fits_in_pairs(tile, work, self.target)):
            raise _impossible(question)
        self._note(question, answer)
        if tile is not None:
            self._forget_plain()
        return tile

    def winograd(self, work: Convolution) -> tuple[int, Tile] | None:
        """Return tile size and schedule of Winograd's algorithm, ``None`` for the plain product.

        Raises:
            OptionError: the answer that is known cannot be carried out.
        """
        question = Question(work, self.target, self.schedules.threads)
        answer = self.schedules.known.get(question.key)
        if answer is None:
            default = choose_winograd(work, self.target, question.threads)
            answer = Answer() if default is None else Answer(*default)
        sizes = (0, *sizes_for(work, self.target))
        if (
            answer.in_registers
            or answer.size not in sizes
            or (answer.size == 0) != (answer.tile is None)
        ):
            raise _impossible(question)
        if answer.tile is not None and not _fits_winograd(answer, work, self.target):
            raise _impossible(question)
        self._note(question, answer)
        return None if answer.tile is None else (answer.size, answer.tile)

    def integer_winograd(self, work: IntegerConvolution) -> Plan | None:
        """Return the schedule of Winograd's algorithm in integers, ``None`` for the plain product.

        Raises:
            OptionError: the answer that is known cannot be carried out.
        """
        question = Question(work, self.target, self.schedules.threads)
        answer = self.schedules.known.get(question.key)
        if answer is None:
            answer = answer_of(choose_integer_winograd(work, self.target, question.threads))
        plan = None
        if answer.tile is not None:
            plan = Plan(answer.size, answer.tile, answer.in_registers)
            if not _possible(plan.tile, self.target) or not fits_integers(plan, work, self.target):
                raise _impossible(question)
        elif answer != Answer():
            raise _impossible(question)
        self._note(question, answer)
        return plan

    def _forget_plain(self) -> None:
        """Forget what was asked of a plain product that is taken in pairs: no answer matters."""
        asked = self.schedules.asked[self.nodes]
        for question in [q for q in asked if isinstance(q.work, Work)]:
            del asked[question]

    def _note(self, question: Question, answer: Answer) -> None:
        self.schedules.asked.setdefault(self.nodes, {})[question] = answer


def answer_of(plan: Plan | None) -> Answer:
    """Return a schedule of Winograd's algorithm in integers as an answer."""
    return Answer() if plan is None else Answer(plan.tiles, plan.tile, plan.in_registers)


def fits(tile: Tile, work: Work, target: Target) -> bool:
    """Tell whether a product can be done with a schedule."""
    block = tile.block
    blocks = block == 0 or (
        work.blocks and work.depth % block == 0 and block % tile.unroll == 0 and block > 0
    )
    if tile.pipelined and not fits_pipelined(tile, work, target):
        return False
    rows = max(MOST_EDGE_ROWS, target.registers // 2) if work.edges else target.registers
    return _possible(tile, target) and blocks and tile.rows <= min(rows, max(work.rows, 1))


def _fits_in_pairs(tile: Tile, work: PairedWork, target: Target) -> bool:
    """Tell whether a product in pairs can be done with a schedule."""
    return _possible(tile, target) and fits_pairs(tile, work, target)


def _fits_winograd(answer: Answer, work: Convolution, target: Target) -> bool:
    """Tell whether tiles can be done with a schedule; whole images are done a vector at a time."""
    tile = answer.tile
    assert tile is not None, "else it is no Winograd convolution"
    return _possible(tile, target) and (tile.vectors == 1 or not work.filtering(answer.size).whole)


def _possible(tile: Tile, target: Target) -> bool:
    return (
        1 <= tile.vectors <= MAX_VECTORS
        and 1 <= tile.rows <= max(most_rows(target, tile.vectors), 1)
        and 1 <= tile.unroll <= MOST_UNROLL
        and tile.row_items >= 1
        and tile.panels >= 1
        and 0 <= tile.prefetch <= MOST_LINES
        and 0 <= tile.near <= MOST_NEAR
    )


def _impossible(question: Question) -> OptionError:
    return OptionError(
        "a schedule of the tuning file cannot be carried out",
        where=question.key,
        hint="take the entry out, or tune again: whet tune",
    )
