"""Numeric ``ai.onnx.ml`` operators against ONNX Runtime and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.errors import UnsupportedError
from whet.tests.contrib_harness import Array, agree, by_whet, feeds_of, model_of, normal, rng
from whet.tests.tolerance import assert_close

ML = "ai.onnx.ml"
X = normal(7, 3)
NAN = X.copy()
NAN[0, 1], NAN[2, 2] = np.nan, 1.0
WHOLE = rng().integers(0, 6, (4, 3))
VECTORS = normal(5, 3, seed=3).ravel().tolist()


def check(op: str, inputs: list[Array], outputs: int = 1, /, **attributes: Any) -> None:
    model = model_of(op, inputs, outputs, domain=ML, **attributes)
    agree(model, inputs, length=20, scale=5.0)


def check_reference(op: str, inputs: list[Array], outputs: int, /, **attributes: Any) -> None:
    model = model_of(op, inputs, outputs, domain=ML, **attributes)
    feeds = feeds_of(model, inputs)
    expected = ReferenceEvaluator(model).run(None, feeds)
    for a, b in zip(by_whet(model, feeds), expected, strict=True):
        assert_close(a, np.asarray(b), "graph", length=20, scale=5.0)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Scaler", [X], {"offset": [0.1, 0.2, 0.3], "scale": [2.0, 3.0, 4.0]}),
        ("Scaler", [WHOLE], {"offset": [0.1], "scale": [2.0]}),
        ("Scaler", [X.astype(np.float64)], {"offset": [0.1], "scale": [2.0]}),
        ("Normalizer", [X], {"norm": "MAX"}),
        ("Normalizer", [-abs(X)], {"norm": "MAX"}),
        ("Normalizer", [X], {"norm": "L1"}),
        ("Normalizer", [X], {"norm": "L2"}),
        ("Normalizer", [np.zeros((2, 3), np.float32)], {"norm": "L2"}),
        ("Binarizer", [X], {"threshold": 0.3}),
        (
            "Imputer",
            [NAN],
            {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")},
        ),
        ("Imputer", [NAN], {"imputed_value_floats": [7.0], "replaced_value_float": 1.0}),
        ("Imputer", [WHOLE], {"imputed_value_int64s": [7], "replaced_value_int64": 1}),
        ("ArrayFeatureExtractor", [X, np.array([2, 0, 2])], {}),
        ("ArrayFeatureExtractor", [X[0], np.array([[2, 0]])], {}),
        ("FeatureVectorizer", [X, normal(7, 2)], {"inputdimensions": [3, 2]}),
        ("FeatureVectorizer", [X, normal(7, 2)], {"inputdimensions": [2, 2]}),
        ("OneHotEncoder", [WHOLE], {"cats_int64s": [0, 2, 3]}),
        ("OneHotEncoder", [WHOLE[0].astype(np.float32)], {"cats_int64s": [0, 2, 3]}),
        (
            "LabelEncoder",
            [WHOLE],
            {"keys_int64s": [1, 2, 5], "values_int64s": [10, 20, 50], "default_int64": -7},
        ),
        (
            "LabelEncoder",
            [WHOLE],
            {"keys_int64s": [1, 5], "values_floats": [0.5, 1.5], "default_float": -7.0},
        ),
        ("LabelEncoder", [NAN], {"keys_floats": [1.0, float("nan")], "values_int64s": [4, 5]}),
    ],
)
def test_features(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    check(op, inputs, **attributes)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"])
def test_linear_models(transform: str) -> None:
    x = abs(X) / 10 if transform == "PROBIT" else X
    two = {"coefficients": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "intercepts": [0.1, 0.2]}
    three = {
        "coefficients": [0.1, 0.2, 0.3, 0.7, -0.2, 0.1, -0.4, 0.5, 0.6],
        "intercepts": [0.1, 0.2, 0.3],
    }
    check("LinearRegressor", [x], targets=2, post_transform=transform, **two)
    labels = {"classlabels_ints": [3, 5, 9]}
    check("LinearClassifier", [x], 2, post_transform=transform, **labels, **three)
    labels = {"classlabels_ints": [3, 5]}
    check("LinearClassifier", [x], 2, post_transform=transform, **labels, **two)
    one = {"coefficients": [0.1, 0.2, 0.3], "intercepts": [0.1]}
    if transform != "PROBIT":
        check_reference("LinearClassifier", [x], 2, post_transform=transform, **labels, **one)


@pytest.mark.parametrize("kind", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_support_vector_machines(kind: str) -> None:
    kernel = {"kernel_type": kind, "kernel_params": [0.5, 0.1, 3.0], "support_vectors": VECTORS}
    weights = [0.3, -0.2, 0.5, 0.1, -0.9]
    for alone in (0, 1):
        check(
            "SVMRegressor",
            [X],
            n_supports=5,
            coefficients=weights,
            rho=[0.2],
            one_class=alone,
            **kernel,
        )
    two = {"classlabels_ints": [4, 8], "vectors_per_class": [2, 3], "rho": [0.2]}
    check("SVMClassifier", [X], 2, coefficients=weights, **two, **kernel)
    three = {"classlabels_ints": [4, 8, 9], "vectors_per_class": [2, 2, 1], "rho": [0.2, 0.1, -0.3]}
    check("SVMClassifier", [X], 2, coefficients=normal(10, seed=5).tolist(), **three, **kernel)


def test_support_vector_machines_without_vectors() -> None:
    kernel = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0], "rho": [0.2]}
    check("SVMRegressor", [X], coefficients=[0.3, -0.2, 0.5], **kernel)
    weights = normal(9, seed=5).tolist()
    check("SVMClassifier", [X], 2, coefficients=weights, classlabels_ints=[4, 8, 9], **kernel)


class Grower:
    """Grows random trees in the attributes of the tree operators."""

    def __init__(self, seed: int, modes: list[str], targets: int, role: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.modes, self.targets, self.role = modes, targets, role
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids")
        nodes = [f"nodes_{n}" for n in (*names, "falsenodeids", "missing_value_tracks_true")]
        leaves = [f"{role}_{n}" for n in ("treeids", "nodeids", "ids", "weights")]
        self.attributes: dict[str, list[Any]] = {n: [] for n in (*nodes, *leaves)}

    def forest(self, trees: int, depth: int) -> dict[str, list[Any]]:
        """Return the attributes of a few trees."""
        for tree in range(trees):
            self.count = 0
            self.grow(tree, depth, depth)
        return self.attributes

    def grow(self, tree: int, depth: int, full: int) -> int:
        """Add a node and all below it; return its number."""
        number, self.count = self.count, self.count + 1
        leaf = depth == 0 or (depth < full and self.rng.random() < 0.2)
        a, place = self.attributes, len(self.attributes["nodes_nodeids"])
        row: dict[str, Any] = {
            "treeids": tree,
            "nodeids": number,
            "featureids": 0 if leaf else int(self.rng.integers(0, 4)),
            "modes": "LEAF" if leaf else str(self.rng.choice(self.modes)),
            "values": float(self.rng.integers(-3, 4) / 2),
            "truenodeids": 0,
            "falsenodeids": 0,
            "missing_value_tracks_true": int(self.rng.integers(0, 2)),
        }
        for name, value in row.items():
            a[f"nodes_{name}"].append(value)
        if leaf:
            for target in range(self.targets):
                weight = float(np.float32(self.rng.normal()))
                entry = {"treeids": tree, "nodeids": number, "ids": target, "weights": weight}
                for name, value in entry.items():
                    a[f"{self.role}_{name}"].append(value)
            return number
        a["nodes_truenodeids"][place] = self.grow(tree, depth - 1, full)
        a["nodes_falsenodeids"][place] = self.grow(tree, depth - 1, full)
        return number


ROWS = (rng(5).integers(-4, 5, (23, 4)) / 2).astype(np.float32)
ROWS[3, 1] = np.nan
ROWS[5] = np.nan
MODES = [f"BRANCH_{m}" for m in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]


@pytest.mark.parametrize("modes", [*([m] for m in MODES), MODES], ids="+".join)
def test_tree_comparisons_send_equal_and_missing_numbers_the_right_way(modes: list[str]) -> None:
    trees = Grower(1, modes, 1, "target").forest(3, 4)
    check("TreeEnsembleRegressor", [ROWS], n_targets=1, **trees)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_trees_are_aggregated(aggregate: str) -> None:
    trees = Grower(2, MODES[:1], 3, "target").forest(5, 4)
    base = [0.1, 0.2, 0.3]
    check(
        "TreeEnsembleRegressor",
        [ROWS],
        n_targets=3,
        aggregate_function=aggregate,
        base_values=base,
        **trees,
    )


def test_trees_of_doubles() -> None:
    trees = Grower(3, MODES[:1], 1, "target").forest(4, 5)
    check("TreeEnsembleRegressor", [ROWS.astype(np.float64)], n_targets=1, **trees)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_tree_classifier(transform: str) -> None:
    trees = Grower(4, MODES[:1], 3, "class").forest(4, 4)
    labels = {"classlabels_int64s": [2, 3, 7], "post_transform": transform}
    check("TreeEnsembleClassifier", [ROWS], 2, **labels, **trees)


@pytest.mark.parametrize("base", [{}, {"base_values": [0.3]}], ids=["plain", "base"])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_tree_classifier_of_one_score(transform: str, base: dict[str, Any]) -> None:
    trees = Grower(4, MODES[:1], 1, "class").forest(4, 4)
    labels = {"classlabels_int64s": [2, 7], "post_transform": transform}
    check("TreeEnsembleClassifier", [ROWS], 2, **labels, **trees, **base)
    if transform == "NONE":
        trees["class_weights"] = [abs(w) / 4 for w in trees["class_weights"]]
        check("TreeEnsembleClassifier", [ROWS], 2, **labels, **trees, **base)


def tensor(values: list[float], kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, kind))


def test_tree_ensemble_with_membership() -> None:
    check(
        "TreeEnsemble",
        [ROWS],
        n_targets=4,
        aggregate_function=1,
        membership_values=tensor([0.5, 1.0, 1.5, np.nan, -1.0, 2.0, np.nan]),
        leaf_targetids=[0, 1, 2, 3],
        leaf_weights=tensor([1.0, 10.0, 1000.0, 100.0]),
        nodes_falseleafs=[1, 0, 1],
        nodes_falsenodeids=[2, 2, 1],
        nodes_featureids=[0, 0, 0],
        nodes_modes=tensor([0, 6, 6], np.uint8),
        nodes_splits=tensor([0.5, 232344.0, np.nan]),
        nodes_trueleafs=[0, 1, 1],
        nodes_truenodeids=[1, 0, 1],
        tree_roots=[0],
    )


def test_trees_serve_any_number_of_rows() -> None:
    trees = Grower(1, MODES, 1, "target").forest(3, 4)
    given: dict[str, Any] = {"domain": ML, "n_targets": 1, **trees}
    model = model_of("TreeEnsembleRegressor", [ROWS], open_dims={0: ("rows", 4)}, **given)
    compiled = whet.compile(model, options=whet.Options(threads=1))
    for count in (0, 1, 7, 23):
        rows = ROWS[:count]
        static = model_of("TreeEnsembleRegressor", [rows], **given)
        (expected,) = by_whet(static, {"x0": rows}) if count else (np.zeros((0, 1), np.float32),)
        assert_close(compiled.run({"x0": rows})["y0"], expected, "graph", length=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes_truenodeids": 0}, "leads back"),
        ({"nodes_truenodeids": 99}, "does not exist"),
        ({"nodes_modes": "BRANCH_NEAR"}, "not known"),
    ],
)
def test_broken_trees_are_refused(change: dict[str, Any], reason: str) -> None:
    trees = Grower(1, MODES[:1], 1, "target").forest(1, 2)
    for name, value in change.items():
        trees[name][0] = value
    given: dict[str, Any] = {"domain": ML, "n_targets": 1, **trees}
    with pytest.raises(UnsupportedError, match=reason):
        whet.compile(model_of("TreeEnsembleRegressor", [ROWS], **given))


def test_labels_that_are_strings_are_refused_only_if_they_are_read() -> None:
    given: dict[str, Any] = {
        "domain": ML,
        "coefficients": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "intercepts": [0.1, 0.2],
        "classlabels_strings": ["no", "yes"],
    }
    with pytest.raises(UnsupportedError, match="strings"):
        whet.compile(model_of("LinearClassifier", [X], 2, **given))
    model = model_of("LinearClassifier", [X], ["", "scores"], **given)
    (scores,) = by_whet(model, {"x0": X})
    weights = np.array(given["coefficients"]).reshape(2, 3)
    expected = X.astype(np.float64) @ weights.T + given["intercepts"]
    assert_close(scores, expected.astype(np.float32), "graph", length=3)
