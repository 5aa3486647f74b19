"""Einsum: every form of equation, against NumPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from whet.errors import ShapeError
from whet.tests.compiled_node import check_node

EXTENTS = {"a": 2, "b": 3, "c": 5, "d": 4, "i": 7, "j": 1, "k": 6}

EQUATIONS = [
    "ij->ji",
    "ij->",
    "ij->j",
    "ii->i",
    "ii",
    "iii->i",
    "aii->a",
    "i,i->",
    "i,k->ik",
    "ij,j->i",
    "j,ij->i",
    "ik,kj->ij",
    "ik, kc",
    "bik,bkc->bic",
    "bik,bkc->cib",
    "abik,abck->abic",
    "ik,ik->ik",
    "ik,ck->ic",
    "ikd,kdc->ic",
    "abid,ck->abikcd",
    "bid,bkcd->bikc",
    "ia,ia->a",
    "ia,ib->",
    "ik,kc,cd->id",
    "i,k,c->ikc",
    "ik,kk->i",
    "a,b,c,d->",
    "zz,zy->y",
]
ELLIPSES = [
    ("...ij->...ji", [(2, 3, 4, 5)]),
    ("...ij,...jk->...ik", [(2, 1, 4, 5), (2, 3, 5, 6)]),
    ("...->...", [(2, 3)]),
    ("...i->i...", [(2, 3, 4)]),
    ("i...,i...->...", [(4, 2, 3), (4, 1, 3)]),
    ("b...d,...d", [(2, 3, 4), (3, 4)]),
    ("...ii->...i", [(3, 4, 4)]),
]


def _shapes(equation: str) -> list[tuple[int, ...]]:
    parts = equation.replace(" ", "").split("->")[0].split(",")
    return [tuple(EXTENTS.get(c, 3) for c in part) for part in parts]


def _check(equation: str, shapes: list[tuple[int, ...]], dtypes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(len(equation))
    arrays = [rng.standard_normal(s) for s in shapes]

    def expected(*given: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.einsum(equation, *given))]

    check_node("Einsum", *arrays, dtypes=dtypes, expected=expected, equation=equation)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_labels(equation: str) -> None:
    _check(equation, _shapes(equation), ("float32",))


@pytest.mark.parametrize(("equation", "shapes"), ELLIPSES)
def test_ellipses(equation: str, shapes: list[tuple[int, ...]]) -> None:
    _check(equation, shapes, ("float64",))


def test_types_and_run_time_dimensions() -> None:
    _check("bik,bkc->cib", _shapes("bik,bkc"), ("float64", "float16", "bfloat16"))
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 7, 6)), rng.standard_normal((2, 6, 5))
    shapes = [["B", "I", "K"], ["B", "K", 5]]
    check_node("Einsum", a, b, shapes=shapes, equation="bik,bkc->cib")
    whole = [rng.integers(-9, 9, s) for s in ((3, 4), (4, 5))]
    check_node("Einsum", *whole, equation="ik,kc->ic")


def test_empty_dimensions() -> None:
    _check("ik,kc->ic", [(3, 0), (0, 5)], ("float32",))
    _check("ik,kc->ic", [(0, 4), (4, 5)], ("float32",))


def test_equations_that_do_not_fit() -> None:
    a = np.ones((2, 3), np.float32)
    for equation in ("ij,jk->ik", "ijk->i", "i->i"):
        with pytest.raises(ShapeError):
            check_node("Einsum", a, equation=equation, expected=lambda x: [x])
