"""What ``atc --mode=3`` writes: every node of a model, its result, and the cause of a failure."""

from __future__ import annotations

import json
from pathlib import Path

from whet.frontend.read import read_proto

_UNSUPPORTED = "E19010"
"""Ascend's code for an operator that nothing registers."""


def check_report(printed: str, model: str) -> str:
    """Return the report of a pre-check.

    Args:
        printed: the JSON of ``whet check``.
        model: the ONNX file, for the nodes that are fine.
    """
    problems = {p["node"]: p["reason"] for p in json.loads(printed)["problems"]}
    rows = []
    for node in read_proto(Path(model)).graph.node:
        name = node.name or f"{node.op_type}:{next(filter(None, node.output), '')}"
        reason = problems.pop(node.name or name, None)
        rows.append(_row(name, node.op_type, reason))
    rows += [_row(name, "", reason) for name, reason in problems.items()]
    failed = any(row["result"] == "failed" for row in rows)
    return json.dumps({"result": "failed" if failed else "success", "op": rows}, indent=2) + "\n"


def _row(name: str, op: str, reason: str | None) -> dict[str, object]:
    cause = [] if reason is None else [{"code": _UNSUPPORTED, "message": reason}]
    result = "success" if reason is None else "failed"
    return {"op_name": name, "op_type": op, "result": result, "cause": cause}
