"""Compiling one exported architecture and comparing it with PyTorch at all sizes."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

import whet
from benchmarks.agreement import TOLERANCES, agreement_of
from benchmarks.architectures.architecture import Array
from benchmarks.architectures.files import MAX_REASON, Failure, answers_path


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one exported model.

    Attributes:
        failure: ``None`` when all sizes agreed.
        worst: largest difference, as a part of the output's deviation.
        compile_s: seconds to compile.
    """

    failure: Failure | None = None
    worst: float = 0.0
    compile_s: float = 0.0


def check(model: Path, answers: Path) -> Check:
    """Compile a model once and run it at every size; errors become part of the result.

    A failure is the exporter's where ONNX Runtime cannot run the file either, or disagrees with
    PyTorch too.
    """
    found = _checked(model, answers)
    wrong = _fault_of_file(model, answers) if found.failure else None
    return found if wrong is None else Check(failure=Failure(stage="export", reason=wrong))


def _fault_of_file(model: Path, answers: Path) -> str | None:
    """Return what ONNX Runtime finds wrong with a file, or ``None`` if it agrees with PyTorch."""
    try:
        session = onnxruntime.InferenceSession(model.read_bytes())
        for inputs, expected in _cases(answers):
            feeds = {i.name: inputs[i.name] for i in session.get_inputs()}
            found = dict(enumerate(session.run(None, feeds)))
            outputs = {str(k): np.asarray(v) for k, v in found.items()}
            wanted = {str(k): v for k, v in enumerate(expected)}
            if not agreement_of(outputs, wanted, TOLERANCES["transformer"]).passed:
                return "the exported file is wrong: ONNX Runtime disagrees with PyTorch too"
    except Exception as problem:  # noqa: BLE001 - a failure is a result here
        line = " ".join(str(problem).split())[:150]
        return f"the exported file is wrong: ONNX Runtime cannot run it: {line}"
    return None


def _checked(model: Path, answers: Path) -> Check:
    stage = "compile"
    worst = 0.0
    try:
        compiled = whet.compile(model)
        stage = "run"
        for inputs, expected in _cases(answers):
            names = [v.name for v in compiled.inputs]
            found = list(compiled.run({n: inputs[n] for n in names}).values())
            outputs = {str(k): np.asarray(v) for k, v in enumerate(found)}
            wanted = {str(k): v for k, v in enumerate(expected)}
            agreement = agreement_of(outputs, wanted, TOLERANCES["transformer"])
            worst = max(worst, agreement.worst)
            if not agreement.passed:
                shapes = [a.shape for a in inputs.values()]
                reason = f"off by {agreement.worst:.1e} of the deviation at {shapes}"
                return Check(failure=Failure(stage="compare", reason=reason), worst=worst)
    except Exception as problem:  # noqa: BLE001 - a failure is a result here
        traceback.print_exc()
        line = " ".join(f"{type(problem).__name__}: {problem}".split())[:MAX_REASON]
        return Check(failure=Failure(stage=stage, reason=line))
    return Check(worst=worst, compile_s=compiled.stats.compile_s)


def _cases(path: Path) -> list[tuple[dict[str, Array], list[Array]]]:
    found: dict[int, tuple[dict[str, Array], dict[int, Array]]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            side, case, name = key.split(".", 2)
            inputs, outputs = found.setdefault(int(case), ({}, {}))
            if side == "in":
                inputs[name] = stored[key]
            else:
                outputs[int(name)] = stored[key]
    return [(i, [o[n] for n in sorted(o)]) for i, o in (found[k] for k in sorted(found))]


def main() -> None:
    """Check one model in this process and print the outcome as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    outcome = check(arguments.model, answers_path(arguments.model.parent, arguments.name))
    print(msgspec.json.encode(outcome).decode())
    sys.exit(1 if outcome.failure else 0)


if __name__ == "__main__":
    main()
