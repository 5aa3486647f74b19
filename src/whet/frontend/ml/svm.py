"""Support vector machines: SVMRegressor and SVMClassifier."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx_ir as ir

from whet.frontend.ml.scores import (
    floats,
    label_of_best,
    take_labels,
    transformed,
    with_opposite,
)
from whet.frontend.translation import Array, Foreign, Translation


def svm_regressor(t: Translation) -> ir.Value:
    """SVMRegressor: ``sum of coefficient * kernel(x, vector) + rho``, or its sign."""
    count, weights = t.take("n_supports", 0), np.array(t.take("coefficients", ()), np.float32)
    rho, kind = t.take("rho", (0.0,)), t.take("kernel_type", "LINEAR")
    vectors, parameters = t.take("support_vectors", ()), t.take("kernel_params", ())
    x = floats(t, t.input(0))
    if count:
        near = _kernel(t, x, np.array(vectors, np.float32).reshape(count, -1), kind, parameters)
    else:
        near = x
    y = t.op("MatMul", near, weights[:, None].astype(t.dtype(x).numpy()))
    score = t.cast(t.op("Add", y, t.scalar(rho[0], y)), ir.DataType.FLOAT)
    if t.take("one_class", 0):
        above = t.op("Greater", score, t.scalar(0.0, score))
        score = t.op("Where", above, t.scalar(1.0, score), t.scalar(-1.0, score))
    return transformed(t, score, t.take("post_transform", "NONE"))


def _kernel(
    t: Translation, x: ir.Value, vectors: Array, kind: str, parameters: tuple[float, ...]
) -> ir.Value:
    """Return the kernel of every row of ``x`` with every support vector."""
    gamma, shift, degree = (*parameters, 0.0, 0.0, 0.0)[:3]
    own = vectors.astype(t.dtype(x).numpy())
    if kind == "RBF":
        gap = t.op("Sub", t.unsqueeze(x, 1), own)
        distance = t.op("ReduceSumSquare", gap, np.array([2], np.int64), keepdims=0)
        return t.op("Exp", t.op("Mul", distance, t.scalar(-gamma, x)))
    product = t.op("MatMul", x, np.ascontiguousarray(own.T))
    if kind == "LINEAR":
        return product
    scaled = t.op("Add", t.op("Mul", product, t.scalar(gamma, x)), t.scalar(shift, x))
    if kind == "POLY":
        return t.op("Pow", scaled, t.scalar(degree, x))
    if kind == "SIGMOID":
        return t.op("Tanh", scaled)
    raise t.refuse(f"kernel_type={kind} is not known")


def svm_classifier(t: Translation) -> tuple[ir.Value, ir.Value]:
    """SVMClassifier: each pair of classes is decided by its support vectors, and votes count."""
    if t.take("prob_a", ()) or t.take("prob_b", ()):
        raise t.refuse("probabilities (prob_a, prob_b) are not supported")
    labels = take_labels(t, "classlabels_ints")
    counts, name = t.take("vectors_per_class", ()), t.take("post_transform", "NONE")
    if not counts or not sum(counts):
        return _linear(t, labels, name)
    score = _pair_scores(t, counts)
    votes = t.op("MatMul", *_votes(t, score, len(counts)))
    best = label_of_best(t, votes, labels)
    if len(counts) == 2:
        return best, with_opposite(t, score, name)
    return best, transformed(t, score, name)


def _linear(t: Translation, labels: Array, name: str) -> tuple[ir.Value, ir.Value]:
    """One score a class, without support vectors."""
    if len(labels) < 2:
        raise t.refuse("a single class is not supported")
    weights = np.array(t.take("coefficients", ()), np.float32).reshape(len(labels), -1)
    rho = t.take("rho", (0.0,))
    t.only(kernel_type="LINEAR")
    t.rest("kernel_params", "support_vectors")
    x = t.cast(t.input(0), ir.DataType.FLOAT)
    product = t.op("MatMul", x, np.ascontiguousarray(weights.T))
    scores = t.op("Add", product, t.scalar(rho[0], product))
    return label_of_best(t, scores, labels), transformed(t, scores, name)


def _pair_scores(t: Translation, counts: tuple[int, ...]) -> ir.Value:
    """Return the decision of every pair of classes, ``(rows, pairs)``."""
    total, classes = sum(counts), len(counts)
    vectors = np.array(t.take("support_vectors", ()), np.float32).reshape(total, -1)
    given = np.array(t.take("coefficients", ()), np.float32).reshape(-1, total)
    rho = np.array(t.take("rho", (0.0,)), np.float32)
    kind, parameters = t.take("kernel_type", "LINEAR"), t.take("kernel_params", ())
    x = t.cast(t.input(0), ir.DataType.FLOAT)
    near = _kernel(t, x, vectors, kind, parameters)
    starts = np.cumsum([0, *counts])
    pairs = list(combinations(range(classes), 2))
    weights = np.zeros((total, len(pairs)), np.float32)
    for column, (i, j) in enumerate(pairs):
        for row, own in ((j - 1, i), (i, j)):
            part = slice(starts[own], starts[own + 1])
            weights[part, column] = given[row, part]
    return t.op("Add", t.op("MatMul", near, weights), rho)


def _votes(t: Translation, score: ir.Value, classes: int) -> tuple[ir.Value, Array]:
    """Return which pairs were won by their first and by their second class, and whose votes."""
    pairs = list(combinations(range(classes), 2))
    first = np.array([[float(i == c) for c in range(classes)] for i, _ in pairs], np.float32)
    second = np.array([[float(j == c) for c in range(classes)] for _, j in pairs], np.float32)
    won = t.cast(t.op("Greater", score, t.scalar(0.0, score)), ir.DataType.FLOAT)
    lost = t.op("Sub", t.scalar(1.0, score), won)
    return t.op("Concat", won, lost, axis=1), np.concatenate([first, second])


OPS = (
    Foreign("SVMRegressor", svm_regressor),
    Foreign("SVMClassifier", svm_classifier),
)
