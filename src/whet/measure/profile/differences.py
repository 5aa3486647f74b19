"""Two profiles side by side, by the nodes that launches compute."""

from __future__ import annotations

import msgspec

from whet.measure.profile.launches import RunTimes


class LaunchDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Launches that compute the same nodes in both programs, or in one of them only.

    Attributes:
        nodes: the nodes.
        ops: their operator types.
        first_us: time in A; ``None`` if no launch of A computes just these nodes.
        second_us: time in B.
        difference_us: how much longer B takes; a missing launch counts as 0.
    """

    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    first_us: float | None
    second_us: float | None
    difference_us: float


def compare_launches(first: RunTimes, second: RunTimes) -> tuple[LaunchDifference, ...]:
    """Match launches by their nodes; the largest difference of either sign comes first."""
    a, b = _by_nodes(first), _by_nodes(second)
    found = []
    for key in dict.fromkeys([*a, *b]):
        mine, theirs = a.get(key), b.get(key)
        found.append(
            LaunchDifference(
                nodes=key[0],
                ops=key[1],
                first_us=mine,
                second_us=theirs,
                difference_us=(theirs or 0.0) - (mine or 0.0),
            )
        )
    return tuple(sorted(found, key=lambda d: (-abs(d.difference_us), d.nodes)))


def _by_nodes(times: RunTimes) -> dict[tuple[tuple[str, ...], tuple[str, ...]], float]:
    sums: dict[tuple[tuple[str, ...], tuple[str, ...]], float] = {}
    for launch in times.launches:
        key = (launch.nodes, launch.ops)
        sums[key] = sums.get(key, 0.0) + launch.span_us
    return sums
