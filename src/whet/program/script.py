"""The script of a model: what happens around its native code.

A model whose every shape follows from its inputs' shapes is one stretch of native code and has no
script. Where a dimension depends on data, where control flow decides what runs, and where values
are sequences or texts, the native code is cut into parts (``Program.parts``) and a script says
when each of them runs. All arithmetic is in the parts; a script only decides, loops and passes on.

Values live in numbered slots; a block of a loop or a branch uses the same slots as the block
around it. Dimensions have names; a step may give them values.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from whet.index import Poly

ABSENT = -1
"""In place of a slot: an optional value that is left out."""

HOST_FUNCTIONS = frozenset(
    {"StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"}
    | {"TextConcat", "TextEqual", "TextGather", "TextReshape", "TextToNumbers", "NumbersToText"}
    | {"LabelEncoder", "ImageDecoder"}
)
"""Functions that compute on the host; all others only pass values on."""

Setting = int | float | str | tuple[int | float | str, ...]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records of a script; they are stored in a ``.whet`` file as they are."""


class _Step(_Record, frozen=True, tag_field="step", tag=str.lower):
    """Base of all steps."""


class Run(_Step, frozen=True):
    """Run one part of the native code.

    Attributes:
        part: which of ``Program.parts``.
        inputs: slots that it reads, one for each of the part's inputs.
        outputs: slots that it fills.
    """

    part: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Expect(_Step, frozen=True):
    """Check type and shape of an array, and give dimensions the extents that it has.

    Attributes:
        slot: the array.
        dtype: its element type.
        shape: its extents; one that is exactly a dimension of ``binds`` gives that its value.
        binds: names of dimensions that get their values here.
        where: the node of the model that makes the array, for errors.
    """

    slot: int
    dtype: str
    shape: tuple[Poly, ...]
    binds: tuple[str, ...]
    where: str


class Read(_Step, frozen=True):
    """Give dimensions the values of a small integer array, in order; each must be 0 or more."""

    slot: int
    dims: tuple[str, ...]
    where: str


class Require(_Step, frozen=True):
    """Stop unless two sizes are equal; the native code after this step relies on it."""

    left: Poly
    right: Poly
    where: str


class Block(_Record, frozen=True):
    """Steps in order, with the slots that are filled before them and read after them."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


class If(_Step, frozen=True):
    """Run one of two blocks and pass on its outputs."""

    condition: int
    then: Block
    otherwise: Block
    outputs: tuple[int, ...]
    where: str


class Slice(_Record, frozen=True):
    """An array of which every trip of a loop gets one slice along an axis."""

    slot: int
    axis: int
    backwards: bool


class Collect(_Record, frozen=True):
    """Values of which every trip of a loop gives one; they are stacked along an axis.

    Attributes:
        slot: where the stack goes.
        dtype: element type.
        shape: extents of one trip's value, for a loop without trips.
        axis: the axis of the stack that counts trips.
        backwards: whether the last trip's value comes first.
    """

    slot: int
    dtype: str
    shape: tuple[Poly, ...]
    axis: int
    backwards: bool


class Loop(_Step, frozen=True):
    """Run a block again and again: ONNX's ``Loop``, and with slices its ``Scan``.

    Attributes:
        trips: slot of the number of trips, or ``ABSENT``.
        condition: slot of the condition for the first trip, or ``ABSENT`` for true.
        carried: slots of the values that the first trip starts with.
        slices: arrays that are read slice by slice; they limit the trips.
        body: takes the trip's number and the condition (unless there are slices), the carried
            values and the slices; gives the condition (unless there are slices), the carried
            values, and the collected ones.
        outputs: slots of the carried values after the last trip.
        collects: what becomes of the values that each trip gives.
        where: the node, for errors.
    """

    trips: int
    condition: int
    carried: tuple[int, ...]
    slices: tuple[Slice, ...]
    body: Block
    outputs: tuple[int, ...]
    collects: tuple[Collect, ...]
    where: str


class Call(_Step, frozen=True):
    """Let a function of the runtime make values that are no numeric arrays, or come from such.

    Attributes:
        function: its name: an operator on sequences, optionals or texts.
        inputs: slots, or ``ABSENT``.
        outputs: slots, or ``ABSENT`` where a value is not wanted.
        settings: attributes by name.
        where: the node, for errors.
    """

    function: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    settings: tuple[tuple[str, Setting], ...]
    where: str


class Case(_Record, frozen=True):
    """A block for given shapes.

    Attributes:
        when: a shape for each value that is looked at, -1 for any extent.
        block: takes those values, gives the results.
    """

    when: tuple[tuple[int, ...], ...]
    block: Block


class Pick(_Step, frozen=True):
    """Run the first block that is made for the shapes of some values, else the one for any.

    Attributes:
        inputs: the values; every block takes all of them.
        cases: blocks for given shapes.
        otherwise: the block for any shapes.
        outputs: slots of what the block gives.
    """

    inputs: tuple[int, ...]
    cases: tuple[Case, ...]
    otherwise: Block
    outputs: tuple[int, ...]


Step = Run | Expect | Read | Require | If | Loop | Call | Pick


class ConstantSlot(_Record, frozen=True):
    """A slot that always holds the same array, which lies in the weights."""

    slot: int
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Script(_Record, frozen=True):
    """How the parts of a program are run.

    Attributes:
        slots: how many values there are.
        constants: slots that are filled once and for all.
        main: the steps of one run; its inputs and outputs are the model's.
    """

    slots: int
    constants: tuple[ConstantSlot, ...]
    main: Block


def all_blocks(block: Block) -> Iterator[Block]:
    """Yield a block and every block inside it."""
    yield block
    for step in block.steps:
        for inner in inner_blocks(step):
            yield from all_blocks(inner)


def inner_blocks(step: Step) -> tuple[Block, ...]:
    """Return the blocks of a step."""
    if isinstance(step, If):
        return step.then, step.otherwise
    if isinstance(step, Pick):
        return step.otherwise, *(case.block for case in step.cases)
    return (step.body,) if isinstance(step, Loop) else ()
