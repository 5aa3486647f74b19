"""The collector is paused while a model is compiled, and is as it was afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from onnx import TensorProto, helper

import whet
from whet.collector import collection_paused


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    on, frozen = gc.isenabled(), gc.get_freeze_count()
    yield
    assert gc.get_freeze_count() == frozen
    (gc.enable if on else gc.disable)()


class Knot:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_blocks_may_overlap() -> None:
    gc.enable()
    first, second = collection_paused(), collection_paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    gc.enable()
    with pytest.raises(ValueError, match="bad"), collection_paused():
        raise ValueError("bad")
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()


def test_what_a_block_drops_is_collected_later() -> None:
    gc.enable()
    with collection_paused():
        knot = Knot()
        seen = weakref.ref(knot)
        del knot
    gc.collect()
    assert seen() is None


def test_what_others_froze_stays_frozen() -> None:
    gc.enable()
    gc.collect()
    gc.freeze()
    try:
        with collection_paused():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_compilation_is_such_a_block() -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [5]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "one", [x], [y])
    seen: list[bool] = []
    gc.enable()
    whet.compile(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        progress=lambda stage, done, total: seen.append(gc.isenabled()),
    )
    assert any(not on for on in seen[1:])
    assert gc.isenabled()
