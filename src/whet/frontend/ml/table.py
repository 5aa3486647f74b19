"""The numeric operators of ``ai.onnx.ml`` that have a translation."""

from __future__ import annotations

from whet.frontend.ml import features, linear, svm, trees
from whet.frontend.translation import Foreign

ML_DOMAIN = "ai.onnx.ml"

ML_OPS: tuple[Foreign, ...] = (*features.OPS, *linear.OPS, *svm.OPS, *trees.OPS)
