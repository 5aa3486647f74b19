"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.ml.forest import LEAF, MODES, Branch, Forest, build_forest, reached_leaves
from whet.frontend.ml.scores import (
    TRANSFORMS,
    floats,
    label_if_above,
    label_of_best,
    take_labels,
    transformed,
    with_opposite,
)
from whet.frontend.translation import Array, Foreign, Translation

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


class _Leaves(msgspec.Struct, frozen=True):
    """What leaves say: for each entry the leaf's number, the target and the weight."""

    numbers: Array
    targets: Array
    weights: Array


def tree_ensemble(t: Translation) -> ir.Value:
    """TreeEnsemble: inner nodes and leaves are listed apart; a leaf speaks of one target."""
    x = floats(t, t.input(0))
    kind = t.dtype(x).numpy()
    weights = np.asarray(t.take("leaf_weights").numpy())
    modes = [MODES[int(m)] for m in np.asarray(t.take("nodes_modes").numpy())]
    forest = _listed_apart(t, modes, len(weights), kind)
    first = len(modes)
    targets = np.array(t.take("leaf_targetids"), np.int64)
    leaves = _Leaves(first + np.arange(len(weights)), targets, weights)
    aggregate = _AGGREGATES[t.take("aggregate_function", 1)]
    name = TRANSFORMS[t.take("post_transform", 0)]
    scores = _aggregated(t, x, forest, leaves, (t.take("n_targets", 1), aggregate))
    return transformed(t, scores, name)


def _listed_apart(
    t: Translation, modes: list[str], leaves: int, kind: np.dtype[np.generic]
) -> Forest:
    yes, no = t.take("nodes_truenodeids"), t.take("nodes_falsenodeids")
    yes_leaf, no_leaf = t.take("nodes_trueleafs"), t.take("nodes_falseleafs")
    splits = np.asarray(t.take("nodes_splits").numpy())
    features = t.take("nodes_featureids")
    missing = t.take("nodes_missing_value_tracks_true", ()) or (0,) * len(modes)
    members = iter(_members(t))
    first = len(modes)
    branches = {
        k: Branch(
            mode,
            features[k],
            float(splits[k]),
            yes[k] + first * bool(yes_leaf[k]),
            no[k] + first * bool(no_leaf[k]),
            bool(missing[k]),
            next(members, ()) if mode == "BRANCH_MEMBER" else (),
        )
        for k, mode in enumerate(modes)
    }
    roots = [branches[k].yes if _is_leaf(branches[k], first) else k for k in t.take("tree_roots")]
    return build_forest(t, branches, roots, first + leaves, kind)


def _is_leaf(branch: Branch, first_leaf: int) -> bool:
    """Tell whether a root stands for a tree of nothing but one leaf."""
    return branch.yes == branch.no and branch.yes >= first_leaf


def _members(t: Translation) -> list[tuple[float, ...]]:
    """Return the sets of numbers, which lie behind each other with NaN after each."""
    tensor = t.take("membership_values", None)
    found: list[tuple[float, ...]] = []
    current: list[float] = []
    for number in () if tensor is None else np.asarray(tensor.numpy()).reshape(-1):
        if np.isnan(number):
            found.append(tuple(current))
            current = []
        else:
            current.append(float(number))
    return found


def tree_ensemble_regressor(t: Translation) -> ir.Value:
    """TreeEnsembleRegressor: the leaves' weights, aggregated for each target."""
    x = floats(t, t.input(0))
    forest, index = _numbered(t, t.dtype(x).numpy())
    leaves = _leaves(t, "target", index)
    shape = (t.take("n_targets", 1), t.take("aggregate_function", "SUM"))
    scores = _aggregated(t, x, forest, leaves, shape)
    base = _numbers(t, "base_values")
    if base.size:
        scores = t.op("Add", scores, base.astype(t.dtype(scores).numpy()))
    name = t.take("post_transform", "NONE")
    return transformed(t, t.cast(scores, ir.DataType.FLOAT), name)


def _numbered(
    t: Translation, kind: np.dtype[np.generic]
) -> tuple[Forest, dict[tuple[int, int], int]]:
    """Return the trees of nodes that are named by tree and number, and where each one lies."""
    names = list(zip(t.take("nodes_treeids"), t.take("nodes_nodeids"), strict=True))
    index = {name: k for k, name in enumerate(names)}
    if len(index) != len(names):
        raise t.refuse("two nodes of a tree have one number")
    modes, features = t.take("nodes_modes"), t.take("nodes_featureids")
    yes, no = t.take("nodes_truenodeids"), t.take("nodes_falsenodeids")
    missing = t.take("nodes_missing_value_tracks_true", ()) or (0,) * len(names)
    values = _numbers(t, "nodes_values")
    branches = {}
    roots: dict[int, int] = {}
    for k, (tree, _) in enumerate(names):
        roots.setdefault(tree, k)
        if modes[k] != LEAF:
            ends = [index.get((tree, n), -1) for n in (yes[k], no[k])]
            branches[k] = Branch(
                modes[k], features[k], float(values[k]), ends[0], ends[1], bool(missing[k])
            )
    order = [roots[tree] for tree in sorted(roots)]
    return build_forest(t, branches, order, len(names), kind), index


def _numbers(t: Translation, name: str) -> Array:
    """Return an attribute that is given as floats, or as a tensor of another name."""
    plain, tensor = t.take(name, ()), t.take(f"{name}_as_tensor", None)
    return np.array(plain, np.float32) if tensor is None else np.asarray(tensor.numpy())


def _leaves(t: Translation, role: str, index: dict[tuple[int, int], int]) -> _Leaves:
    names = zip(t.take(f"{role}_treeids"), t.take(f"{role}_nodeids"), strict=True)
    numbers = [index.get(name, -1) for name in names]
    if -1 in numbers:
        raise t.refuse("a weight is of a leaf that does not exist")
    targets = np.array(t.take(f"{role}_ids"), np.int64)
    return _Leaves(np.array(numbers, np.int64), targets, _numbers(t, f"{role}_weights"))


def _aggregated(
    t: Translation, x: ir.Value, forest: Forest, leaves: _Leaves, shape: tuple[int, str]
) -> ir.Value:
    """Return the weights of the reached leaves, aggregated over trees: ``(rows, targets)``."""
    targets, aggregate = shape
    if aggregate not in _AGGREGATES:
        raise t.refuse(f"aggregate_function={aggregate} is not known")
    neutral = {"MIN": np.inf, "MAX": -np.inf}.get(aggregate, 0.0)
    table = np.full((len(forest.low), targets), neutral, t.dtype(x).numpy())
    join = {"MIN": np.minimum, "MAX": np.maximum}.get(aggregate, np.add)
    join.at(table, (leaves.numbers, leaves.targets), leaves.weights)
    reached = t.op("Gather", table, reached_leaves(t, x, forest), axis=0)
    reduce = {"MIN": "ReduceMin", "MAX": "ReduceMax"}.get(aggregate, "ReduceSum")
    total = t.op(reduce, reached, np.array([1], np.int64), keepdims=0)
    if aggregate == "AVERAGE":
        return t.op("Div", total, t.scalar(float(len(forest.roots)), total))
    if neutral:
        silent = t.op("Equal", total, t.scalar(neutral, total))
        return t.op("Where", silent, t.scalar(0.0, total), total)
    return total


def tree_ensemble_classifier(t: Translation) -> tuple[ir.Value, ir.Value]:
    """TreeEnsembleClassifier: a score for each class, or one that decides between two."""
    labels = take_labels(t, "classlabels_int64s")
    x = floats(t, t.input(0))
    forest, index = _numbered(t, t.dtype(x).numpy())
    leaves = _leaves(t, "class", index)
    base, name = _numbers(t, "base_values"), t.take("post_transform", "NONE")
    if len(labels) == 2 and not leaves.targets.any():
        return _of_one_score(t, (x, forest, leaves), base, labels, name)
    scores = _aggregated(t, x, forest, leaves, (len(labels), "SUM"))
    if base.size:
        scores = t.op("Add", scores, base.astype(t.dtype(scores).numpy()))
    scores = t.cast(scores, ir.DataType.FLOAT)
    return label_of_best(t, scores, labels), transformed(t, scores, name)


def _of_one_score(
    t: Translation,
    given: tuple[ir.Value, Forest, _Leaves],
    base: Array,
    labels: Array,
    name: str,
) -> tuple[ir.Value, ir.Value]:
    """Return label and scores of two classes when all leaves speak of the first.

    Their sum is the probability of the second class if all weights are positive and nothing is
    to be made of it, else a score around 0. (ONNX Runtime leaves out a transform of positive ones.)
    """
    x, forest, leaves = given
    score = _aggregated(t, x, forest, leaves, (1, "SUM"))
    if base.size:
        score = t.op("Add", score, t.scalar(float(base[0]), score))
    score = t.cast(score, ir.DataType.FLOAT)
    if name == "NONE" and (leaves.weights >= 0).all():
        rest = t.op("Sub", t.scalar(1.0, score), score)
        both = t.op("Concat", rest, score, axis=1)
        return label_if_above(t, score, 0.5, labels), both
    return label_if_above(t, score, 0.0, labels), with_opposite(t, score, name)


_IGNORED = ("nodes_hitrates", "nodes_hitrates_as_tensor")

OPS = (
    Foreign("TreeEnsemble", tree_ensemble, ignored=_IGNORED),
    Foreign("TreeEnsembleRegressor", tree_ensemble_regressor, ignored=_IGNORED),
    Foreign("TreeEnsembleClassifier", tree_ensemble_classifier, ignored=_IGNORED),
)
