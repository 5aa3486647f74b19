"""Ascend's tuner: its command line, and its report from what ``whet tune`` found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.compat.translation import (
    Noted,
    Refused,
    Rule,
    Translation,
    Used,
    read_options,
    shape_arguments,
)

_HERE = "code is made for the CPU of this machine"
_KINDS = {"1": "graphs are fused without tuning; products are tuned", "2": ""}

AOE: dict[str, Rule] = {
    "model": Used(), "framework": Used("5"), "job_type": Used("2"), "output": Used(),
    "input_shape": Used(), "input_format": Used(),
    "reload": Noted("it always goes on where it was"),
    "progress_bar": Noted("it is shown on a terminal"),
    "log": Noted("messages go to stderr; --traceback shows where an error arose"),
    "soc_version": Noted(_HERE), "aicore_num": Noted(_HERE), "device": Noted(_HERE),
    "tune_optimization_level": Noted("--tune_seconds says how long it takes"),
    "tune_seconds": Used("300"),
    "model_path": Refused("tune one model after the other, with the same --output"),
    "tune_ops_file": Refused("all products of the model are tuned; leave it out"),
}  # fmt: skip


def aoe(arguments: Sequence[str]) -> Translation:
    """Translate the tuner; ``--tune_seconds``, which it does not have there, bounds its time."""
    given = read_options(arguments, AOE)
    given.choose("framework", {"5": ""}, "convert the model to ONNX and give --framework=5")
    given.choose("input_format", {"NCHW": "", "ND": ""}, "inputs keep the layout of the model")
    given.choose("job_type", _KINDS, "give 1 or 2")
    model = given.need("model")
    name = Path(model).stem
    bank = given.get("output") or f"{name}.tuning.json"
    command = ["tune", model, "-o", bank, "--seconds", given.need("tune_seconds"), "--json"]
    shape = given.get("input_shape")
    command += shape_arguments(shape) if shape is not None else []
    report = Path(f"aoe_result_opat_{name}.json")
    return Translation(
        command,
        given.notes,
        report=lambda: _improvement(report, bank),
        save=(report, lambda text: json.dumps(tuning_report(json.loads(text), name), indent=2)),
    )


def _improvement(report: Path, bank: str) -> str:
    found = json.loads(report.read_text())[1]["OPAT"]["model_performance_improvement"]
    return f"Performance improved by {found}\ncompile with it: atc --op_bank_path={bank}"


def tuning_report(found: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the report in Ascend's form.

    Args:
        found: what ``whet tune --json`` prints.
        name: of the tuning.
    """
    versus = found["comparison"] or {"ratio": 1.0, "medians_ms": [0.0, 0.0], "verdict": ""}
    before, after = versus["medians_ms"]
    changed = {k: e for k, e in found["entries"].items() if e["answer"] is not None}
    total = len(found["entries"])
    added = found["improved"] - found["improved_before"]
    return [
        {"basic": {"tuning_name": name, "tuning_time(s)": round(found["seconds"])}},
        {
            "OPAT": {
                "model_baseline_performance(ms)": before,
                "model_performance_improvement": f"{max(0.0, 1 - versus['ratio']):.2%}",
                "model_result_performance(ms)": after,
                "opat_tuning_result": "tuning successful" if changed else "no improvement",
                "repo_modified_operators": [_operator(k, e) for k, e in sorted(changed.items())],
                "repo_summary": {
                    "repo_add_num": added,
                    "repo_hit_num": found["improved_before"],
                    "repo_reserved_num": total - found["improved"],
                    "repo_unsatisfied_num": 0,
                    "repo_update_num": 0,
                    "total_num": total,
                },
            }
        },
    ]


def _operator(key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    sizes, _, _ = key.partition(" | ")
    before, after = entry["default_us"], entry["tuned_us"]
    return {
        "op_name": sizes,
        "op_type": sizes.partition(" ")[0],
        "tune_performance": {
            "Format": {
                "performance_after_tune(us)": round(after, 3),
                "performance_before_tune(us)": round(before, 3),
                "performance_improvement": f"{1 - after / before:.2%}" if before else "0.00%",
                "update_mode": "add",
            }
        },
    }
