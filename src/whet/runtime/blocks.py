"""Inputs that say how pictures become others: checked before native code follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.errors import ArtifactError
from whet.program.aipp_block import HEAD, IMAGE, BlockUse, check_block, read_uses
from whet.program.records import PICTURE_BLOCKS
from whet.runtime.arrays import Array, Port


class Blocks:
    """The blocks that a model takes; one that was checked last time is known to be good.

    Args:
        uses: what each has to fit, by the position of its input.
    """

    def __init__(self, uses: Mapping[int, BlockUse]) -> None:
        self._uses = uses
        self._good: dict[int, bytes] = {}

    @classmethod
    def of(cls, text: str, ports: Sequence[Port]) -> Blocks:
        """Return those that a compiled file names.

        Raises:
            ArtifactError: what it says does not fit its inputs.
        """
        places = {port.name: place for place, port in enumerate(ports)}
        uses: dict[int, BlockUse] = {}
        for use in read_uses(text):
            port = ports[places[use.block]] if use.block in places else None
            size = HEAD.itemsize + use.batch * IMAGE.itemsize
            if port is None or port.dtype != "uint8" or port.shape != (size,):
                raise ArtifactError(
                    f"there is no input {use.block!r} of {size} bytes",
                    where=PICTURE_BLOCKS,
                    hint="compile again",
                )
            uses[places[use.block]] = use
        return cls(uses)

    def check(self, arrays: Sequence[Array]) -> None:
        """Check the blocks of a call.

        Raises:
            InputError: a field has a value that there is not, or that does not fit.
        """
        for place, use in self._uses.items():
            given = arrays[place].tobytes()
            if self._good.get(place) != given:
                check_block(arrays[place], use)
                self._good[place] = given
