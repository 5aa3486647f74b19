"""Decision trees as tables over all nodes of all trees, the leaves included.

At a node the walk goes to ``low`` if ``x[feature] <= threshold``, else to ``high``; a leaf leads to
itself, so that all trees can be walked for as many steps as the deepest one has. The other
comparisons are written with this one: ``x < t`` is ``x <= t'`` with the next smaller number ``t'``,
and ``>`` and ``>=`` exchange the branches. Equality has a table of its own.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Array, Translation

MODES = (
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
)
LEAF = "LEAF"


class Branch(msgspec.Struct, frozen=True):
    """An inner node as the model writes it.

    Attributes:
        mode: one of ``MODES``.
        feature: column that is compared.
        threshold: number it is compared with.
        yes: node where the comparison holds.
        no: node where it does not.
        missing_yes: whether NaN goes to ``yes`` whatever the comparison says.
        members: for ``BRANCH_MEMBER``, the numbers that are looked for.
    """

    mode: str
    feature: int
    threshold: float
    yes: int
    no: int
    missing_yes: bool = False
    members: tuple[float, ...] = ()


class Forest(msgspec.Struct, frozen=True):
    """The tables; all but ``roots`` have one entry a node.

    Attributes:
        feature: column that is compared, int64; 0 for a leaf.
        threshold: number it is compared with.
        low: where the comparison leads if it holds.
        high: and if it does not.
        equal: whether equality is asked for instead of order.
        missing_low: whether NaN goes to ``low``.
        roots: the first node of each tree.
        depth: steps from a root to the farthest leaf.
    """

    feature: Array
    threshold: Array
    low: Array
    high: Array
    equal: Array
    missing_low: Array
    roots: Array
    depth: int


def build_forest(
    t: Translation,
    branches: dict[int, Branch],
    roots: list[int],
    size: int,
    dtype: np.dtype[np.generic],
) -> Forest:
    """Return the tables of trees whose nodes are numbered from 0 to ``size``.

    Args:
        t: the node, for errors.
        branches: inner nodes by number; all other numbers are leaves.
        roots: number of each tree's first node.
        size: how many nodes there are.
        dtype: type of the features.

    Raises:
        UnsupportedError: a branch leads to no node, or back.
    """
    simple, size = _without_members(branches, size)
    own = np.arange(size, dtype=np.int64)
    forest = Forest(
        feature=np.zeros(size, np.int64),
        threshold=np.zeros(size, dtype),
        low=own.copy(),
        high=own.copy(),
        equal=np.zeros(size, np.bool_),
        missing_low=np.zeros(size, np.bool_),
        roots=np.array(roots, np.int64),
        depth=_depth(t, simple, roots, size),
    )
    for number, branch in simple.items():
        _enter(t, forest, number, branch)
    return forest


def _without_members(branches: dict[int, Branch], size: int) -> tuple[dict[int, Branch], int]:
    """Write a test for membership as tests for equality behind each other."""
    found: dict[int, Branch] = {}
    for number, branch in branches.items():
        if branch.mode != "BRANCH_MEMBER":
            found[number] = branch
            continue
        here = number
        members = branch.members or (np.nan,)
        for k, member in enumerate(members):
            last = k == len(members) - 1
            other = branch.no if last else size
            size += not last
            found[here] = Branch(
                "BRANCH_EQ", branch.feature, member, branch.yes, other, branch.missing_yes
            )
            here = other
    return found, size


def _depth(t: Translation, branches: dict[int, Branch], roots: list[int], size: int) -> int:
    """Return the number of steps to the farthest leaf, level by level."""
    level, depth = set(roots), 0
    while True:
        if any(not 0 <= n < size for n in level):
            raise t.refuse("a branch of a tree leads to a node that does not exist")
        inner = [branches[n] for n in level if n in branches]
        if not inner:
            return depth
        level = {n for b in inner for n in (b.yes, b.no)}
        depth += 1
        if depth > size:
            raise t.refuse("a branch of a tree leads back")


def _enter(t: Translation, forest: Forest, number: int, branch: Branch) -> None:
    if branch.mode not in MODES:
        raise t.refuse(f"the node mode {branch.mode} is not known")
    dtype = forest.threshold.dtype
    below = branch.mode in ("BRANCH_LT", "BRANCH_GTE")
    swap = branch.mode in ("BRANCH_GTE", "BRANCH_GT", "BRANCH_NEQ")
    limit = np.asarray(branch.threshold, dtype)
    forest.feature[number] = branch.feature
    forest.threshold[number] = np.nextafter(limit, np.asarray(-np.inf, dtype)) if below else limit
    yes, no = (branch.no, branch.yes) if swap else (branch.yes, branch.no)
    forest.low[number], forest.high[number] = yes, no
    forest.equal[number] = branch.mode in ("BRANCH_EQ", "BRANCH_NEQ")
    missing_yes = branch.missing_yes or branch.mode == "BRANCH_NEQ"
    forest.missing_low[number] = missing_yes != swap


def reached_leaves(t: Translation, x: ir.Value, forest: Forest) -> ir.Value:
    """Return the leaf that each row of ``x`` reaches in each tree, ``(rows, trees)``."""
    rows = t.op("Mul", t.shape(x), np.array([1, 0], np.int64))
    target = t.op("Add", rows, np.array([0, len(forest.roots)], np.int64))
    place = t.op("Expand", forest.roots, target)
    for _ in range(forest.depth):
        place = _step(t, x, forest, place)
    return place


def _step(t: Translation, x: ir.Value, forest: Forest, place: ir.Value) -> ir.Value:
    value = t.op("GatherElements", x, t.op("Gather", forest.feature, place), axis=1)
    threshold = t.op("Gather", forest.threshold, place)
    holds = t.op("LessOrEqual", value, threshold)
    if forest.equal.any():
        same = t.op("Equal", value, threshold)
        holds = t.op("Where", t.op("Gather", forest.equal, place), same, holds)
    if forest.missing_low.any():
        missing = t.op("And", t.op("IsNaN", value), t.op("Gather", forest.missing_low, place))
        holds = t.op("Or", holds, missing)
    low, high = t.op("Gather", forest.low, place), t.op("Gather", forest.high, place)
    return t.op("Where", holds, low, high)
