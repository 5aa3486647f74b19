"""Model-local functions are inlined where they are called."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from whet.errors import ModelError


def inline_functions(model: ir.Model) -> None:
    """Replace every call of a model-local function by its body, in place.

    All bodies must be of one opset already.

    Raises:
        ModelError: a call does not fit its function.
    """
    if not model.functions:
        return
    _complete_calls(model)
    try:
        common.InlinePass()(model)
    except (ValueError, KeyError, ir.passes.PassError, ir.passes.InvariantError) as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ModelError(
            f"a function of the model cannot be inlined: {root}", hint="export the model again"
        ) from error
    model.functions.clear()


def _complete_calls(model: ir.Model) -> None:
    """Give every call all outputs of its function; the last ones may be left out."""
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for node in (node for body in bodies for node in body.all_nodes()):
        function = model.functions.get(node.op_identifier())
        if function is not None and len(node.outputs) < len(function.outputs):
            node.resize_outputs(len(function.outputs))


def shares_opset(model: ir.Model) -> bool:
    """Tell whether all functions were written for the opset of the main graph."""
    version = model.opset_imports.get("")
    return all(f.opset_imports.get("", version) == version for f in model.functions.values())
