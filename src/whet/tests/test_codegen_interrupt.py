"""An interrupted compilation leaves neither processes nor threads behind."""

from __future__ import annotations

import threading
import time
from typing import NoReturn

import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.codegen import compile as compiling


def many_kernels() -> onnx.ModelProto:
    """Return a model of so many kernels that other processes help."""
    names = ["Relu", "Exp", "Tanh", "Sin", "Cos", "Sqrt", "Erf", "Neg", "Abs"]
    nodes = [helper.make_node(name, ["x"], [name]) for name in names]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5]) for name in names]
    graph = helper.make_graph(nodes, "many", [given], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_feeders_end_before_their_pipes_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def slow(source: object) -> None:
        asked.set()
        time.sleep(0.5)

    def interrupt(text: str, target: object) -> NoReturn:
        assert asked.wait(60), "a helper is at work"
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling, "read_frame", slow)
    monkeypatch.setattr(compiling, "compile_ir", interrupt)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        whet.compile(many_kernels(), options=whet.Options(threads=2, cache_dir=None))
    assert set(threading.enumerate()) <= before
