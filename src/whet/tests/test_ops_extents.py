"""Inputs whose extents have names of their own: they have to agree when the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whet.errors import ShapeError
from whet.tests.node_models import NodeModel, assert_same
from whet.tests.ops_harness import reference

Array = np.ndarray[Any, np.dtype[Any]]
CASES: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]], dict[str, Any]]] = {
    "LayerNormalization": ([(4, 9), (9,)], [(4, 9), (2,)], {}),
    "RMSNormalization": ([(4, 9), (9,)], [(4, 9), (2,)], {}),
    "BatchNormalization": ([(2, 9, 3), *[(9,)] * 4], [(2, 9, 3), *[(2,)] * 4], {}),
    "Concat": ([(2, 9), (3, 9)], [(2, 9), (3, 4)], {"axis": 0}),
    "Einsum": ([(3, 9), (9, 4)], [(3, 9), (2, 4)], {"equation": "ij,jk->ik"}),
    "Add": ([(3, 9), (3, 9)], [(3, 9), (3, 2)], {}),
}


def node_of(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> NodeModel:
    rng = np.random.default_rng(1)
    arrays = [rng.random(shape).astype(np.float32) + 1 for shape in shapes]
    symbols = {k: tuple(f"d{k}{d}" for d in range(len(s))) for k, s in enumerate(shapes)}
    return NodeModel(op, arrays, attributes, symbols=symbols)


@pytest.mark.parametrize("op", CASES)
def test_extents_have_to_agree(op: str) -> None:
    fit, misfit, attributes = CASES[op]
    node = node_of(op, fit, attributes)
    model = node.compiled()
    (found,), (right,) = node.run(model), reference(node.node(), node.given())
    assert_same(found, right)
    with pytest.raises(ShapeError):
        model(node_of(op, misfit, attributes).given())
    with pytest.raises(ShapeError):
        NodeModel(op, node_of(op, misfit, attributes).arrays, attributes).compiled()
