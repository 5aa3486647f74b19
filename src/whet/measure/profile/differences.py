"""Two profiles side by side, by the nodes that launches compute."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from whet.measure.profile.launches import LaunchTime, RunTimes


class LaunchDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Launches of both programs that have nodes in common, directly or through others.

    Where A computes three nodes in three launches and B in one, these four are compared.

    Attributes:
        nodes: the nodes.
        ops: their operator types, as in the program that has more of the nodes together.
        first_us: time in A; ``None`` if no launch of A computes any of these nodes.
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
    groups = _groups([*first.launches, *second.launches])
    found = []
    for members in groups:
        mine, theirs = (
            [launch for launch in times.launches if _key(launch) in members]
            for times in (first, second)
        )
        a, b = (sum(x.span_us for x in side) if side else None for side in (mine, theirs))
        longest = max([*mine, *theirs], key=lambda launch: len(launch.nodes))
        nodes = dict.fromkeys(node for launch in (*mine, *theirs) for node in launch.nodes)
        found.append(
            LaunchDifference(
                nodes=tuple(nodes),
                ops=longest.ops,
                first_us=a,
                second_us=b,
                difference_us=(b or 0.0) - (a or 0.0),
            )
        )
    return tuple(sorted(found, key=lambda d: (-abs(d.difference_us), d.nodes)))


Key = tuple[tuple[str, ...], tuple[str, ...]]


def _key(launch: LaunchTime) -> Key:
    return launch.nodes, launch.ops


def _groups(launches: Sequence[LaunchTime]) -> list[set[Key]]:
    """Return the keys of launches that have nodes in common, in the order of the launches."""
    by_node: dict[str, set[Key]] = {}
    for launch in launches:
        merged = {_key(launch)}
        for node in launch.nodes:
            merged |= by_node.get(node, set())
        for nodes, _ in list(merged):
            by_node.update(dict.fromkeys(nodes, merged))
    nodeless = [{_key(launch)} for launch in launches if not launch.nodes]
    unique = {id(group): group for group in (*by_node.values(), *nodeless)}
    return list(unique.values())
