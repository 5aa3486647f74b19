"""ONNX's own backend tests, compiled, run and classified in a process of their own.

``python -m whet.tests.backend_suite [--update] [--level N] [pattern...]`` prints what fails.
"""

from __future__ import annotations

import argparse
import functools
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import whet
from whet.errors import CompileError, WhetError
from whet.tests.ops_harness import parameters_of
from whet.tests.tolerance import tolerance

PASSES = Path(__file__).parent / "data" / "backend_passes.txt"
FAILURES = Path(__file__).parent / "data" / "backend_failures.txt"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator", "real")
FIXED = "+constants"
OPEN = "+symbolic"
FOLDED = "+folded"
FORMS = (FIXED, OPEN, FOLDED)
ALL = -1
WITH_WEIGHTS = frozenset({
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "CausalConvWithState",
    "GRU", "LSTM", "RNN", "QuantizeLinear", "DequantizeLinear", "GroupNormalization",
})  # fmt: skip
WITH_HEADS = frozenset({"Attention", "RotaryEmbedding", "LinearAttention", "FlexAttention"})
PASSED, REFUSED = "passed", "refused"


@dataclass(frozen=True)
class Case:
    """One test: a model, its inputs by name and the outputs it must give, in order."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    outputs: list[Any]
    rtol: float
    atol: float


@functools.cache
def all_cases() -> dict[str, Any]:
    """Return ONNX's test cases by name; models in files are read when they are needed."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = {f"node/{case.name}": case for case in collect_testcases(None)}
    for kind in FOLDERS:
        found.update({f"{kind}/{case.name}": case for case in load_model_tests(kind=kind)})
    return found


def names() -> list[str]:
    """Return the names of all tests in their forms.

    Besides the plain one there is one with its parameters as constants, one with names for the
    dimensions of its inputs, and one in which all inputs are constants.
    """
    forms = ("", *FORMS)
    return sorted(base + form for base in all_cases() for form in forms)


def load_case(name: str) -> Case | None:
    """Return one test by name; ``None`` if there is nothing to make constant or to name."""
    case = all_cases()[name.partition("+")[0]]
    found = _topology(name, case) if case.kind == "real" else _plain_case(name, case)
    if name.endswith(FIXED):
        return with_constants(found, parameters(found))
    if name.endswith(FOLDED):
        return with_constants(found, set(found.inputs)) if case.kind == "node" else None
    return with_open_dims(found) if name.endswith(OPEN) else found


def _topology(name: str, case: Any) -> Case:
    """Return a network whose weights are all the same, with the output that belongs to ones."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    stem = Path(case.url).stem
    model = onnx.load(folder / f"{stem}.onnx")
    known = {i.name for i in model.graph.initializer}
    inputs = {
        i.name: np.ones([d.dim_value for d in i.type.tensor_type.shape.dim], np.float32)
        for i in model.graph.input
        if i.name not in known
    }
    wanted = onnx.TensorProto.FromString((folder / f"{stem}_output_0.pb").read_bytes())
    return Case(name, model, inputs, [numpy_helper.to_array(wanted)], case.rtol, case.atol)


def _plain_case(name: str, case: Any) -> Case:
    model = case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")
    sets = case.data_sets or [_stored_set(Path(case.model_dir), model)]
    inputs, outputs = sets[0]
    given = [_array(v) for v in inputs]
    known = {i.name for i in model.graph.initializer}
    free = [i.name for i in model.graph.input]
    if len(free) != len(given):
        free = [n for n in free if n not in known]
    return Case(
        name, model, dict(zip(free, given, strict=False)), [_array(v) for v in outputs],
        case.rtol, case.atol,
    )  # fmt: skip


def with_open_dims(case: Case) -> Case | None:
    """Return the test with a name for every extent of its inputs above 1, equal ones the same.

    Weights, heads, and what says shapes or axes stay as they are: they belong to a model.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.value_info[:]
    kept = _kept_axes(model)
    count = 0
    for value in model.graph.input:
        if value.name not in case.inputs:
            continue
        for axis, dim in enumerate(_innermost(value.type).tensor_type.shape.dim):
            if dim.dim_value > 1 and not {axis, ALL} & kept[value.name]:
                dim.dim_param = f"extent_{dim.dim_value}"
                count += 1
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return replace(case, model=model) if count else None


def _innermost(kind: onnx.TypeProto) -> onnx.TypeProto:
    """Return the type of the arrays that a type holds: an array, a sequence, an optional."""
    for outer in ("optional_type", "sequence_type"):
        if kind.HasField(outer):
            kind = getattr(kind, outer).elem_type
    return kind


def _kept_axes(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Return by input which axes a model fixes."""
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input}
    kept: dict[str, set[int]] = defaultdict(set)
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if k in parameters_of(node) or (k > 0 and node.op_type in WITH_WEIGHTS):
                kept[name].add(ALL)
            elif node.op_type in WITH_HEADS:
                kept[name] |= _head_axes(ranks.get(name, 0), node.op_type)
    return kept


def _head_axes(rank: int, op: str) -> set[int]:
    """Return the axes of heads and of what belongs to one; lengths of sequences are open."""
    if op == "RotaryEmbedding":
        return {1, 2, 3}
    return {1, 3} if rank == 4 else {2}


def parameters(case: Case) -> set[str]:
    """Return the inputs that have to be known when compiling, unless the model may be cut."""
    graph = case.model.graph
    wanted = {
        n.input[k] for n in graph.node for k in parameters_of(n) if k < len(n.input) and n.input[k]
    }
    return wanted & set(case.inputs)


def with_constants(case: Case, wanted: set[str]) -> Case | None:
    """Return the test with some inputs turned into constants; ``None`` if they are no arrays."""
    if not wanted or not all(isinstance(case.inputs[n], np.ndarray) for n in wanted):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [i for i in model.graph.input if i.name not in wanted]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(case.inputs[n], n) for n in sorted(wanted)
    )
    inputs = {n: v for n, v in case.inputs.items() if n not in wanted}
    return Case(case.name, model, inputs, case.outputs, case.rtol, case.atol)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple | dict | onnx.SequenceProto | onnx.OptionalProto):
        return value
    return None if value is None else np.asarray(value)


def _stored_set(folder: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    data = folder / "test_data_set_0"
    return _stored(data, "input", model.graph.input), _stored(data, "output", model.graph.output)


def _stored(folder: Path, word: str, values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for k, value in enumerate(values):
        path = folder / f"{word}_{k}.pb"
        if not path.exists():
            continue
        tensor = value.type.HasField("tensor_type")
        raw = path.read_bytes()
        found.append(
            onnx.TensorProto.FromString(raw) if tensor else onnx.SequenceProto.FromString(raw)
        )
    return found


# -- running one -----------------------------------------------------------------------------------


def run_case(name: str, cache: str, level: int = 3) -> tuple[str, str] | None:
    """Compile and run one test; returns what became of it and why, or ``None`` without one."""
    case = load_case(name)
    if case is None:
        return None
    options = whet.Options(threads=1, cache_dir=cache, opt_level=level)
    try:
        model = whet.compile(case.model, options=options)
        wanted = {spec.name for spec in model.inputs}
        found = model({n: v for n, v in case.inputs.items() if n in wanted})
    except CompileError as error:
        return "failed", str(error)
    except WhetError as error:
        return REFUSED, str(error)
    except Exception:  # noqa: BLE001 - that is what is looked for
        return "failed", traceback.format_exc()
    problems = [
        _difference(found[o.name], expected, case)
        for o, expected in zip(case.model.graph.output, case.outputs, strict=True)
    ]
    wrong = [p for p in problems if p]
    return ("wrong", "; ".join(wrong)) if wrong else (PASSED, "")


def _difference(found: Any, expected: Any, case: Case) -> str:
    if expected is None or found is None:
        return "" if found is expected else f"{found!r} is not {expected!r}"
    if isinstance(expected, list | tuple):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{type(found).__name__} is not a list of {len(expected)}"
        pairs = zip(found, expected, strict=True)
        return "; ".join(filter(None, (_difference(a, _array(b), case) for a, b in pairs)))
    if not isinstance(expected, np.ndarray | np.generic):
        return f"expected {type(expected).__name__}"
    return _array_difference(found, np.asarray(expected), case)


def _array_difference(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], case: Case
) -> str:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype}{list(found.shape)} is not {expected.dtype}{list(expected.shape)}"
    if found.dtype.kind in "biuO":
        return "" if np.array_equal(found, expected) else _shown(found, expected)
    a, b = found.astype(np.float64), np.asarray(expected, np.float64)
    bound = tolerance("pointwise", found.dtype.name)  # halves: ONNX rounds every intermediate
    rtol, atol = max(case.rtol, bound.rtol), max(case.atol, bound.atol)
    same = np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    return "" if same else _shown(a, b)


def _shown(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str:
    places = np.flatnonzero(found.reshape(-1) != expected.reshape(-1))[:4]
    pairs = [f"{found.reshape(-1)[k]} is not {expected.reshape(-1)[k]}" for k in places]
    return f"{len(np.flatnonzero(found != expected))} of {found.size} differ: {', '.join(pairs)}"


# -- running many ----------------------------------------------------------------------------------


def serve(cache: str, level: int) -> None:
    """Run the tests named on standard input, one line each; answer with one line each."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        result = run_case(line.strip(), cache, level)
        status, why = result or ("none", "")
        sys.stdout.write(f"{status}\t{why.encode('unicode_escape').decode()}\n")
        sys.stdout.flush()


class Workers:
    """A process that runs tests, started again when a test ends it or takes too long."""

    def __init__(self, cache: str, level: int = 3, timeout_s: float = 600) -> None:
        self._command = [sys.executable, "-m", __name__ if __name__ != "__main__" else MODULE]
        self._command += ["--serve", cache, "--level", str(level)]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    def run(self, name: str) -> tuple[str, str]:
        """Return what becomes of a test."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        line = self._answer(self._process)
        if line:
            status, _, why = line.rstrip("\n").partition("\t")
            return status, why.encode().decode("unicode_escape")
        self.close()
        return "crashed", "the process ended, or the time was up"

    def _answer(self, process: subprocess.Popen[str]) -> str | None:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stream = process.stdout
        assert stream is not None
        reader = threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True)
        reader.start()
        try:
            return lines.get(timeout=self._timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def read_passes() -> list[str]:
    """Return the checked-in names of tests that pass."""
    lines = PASSES.read_text().splitlines() if PASSES.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def read_failures() -> dict[str, str]:
    """Return what becomes of the other tests by name; the reason stands behind it in the file."""
    lines = FAILURES.read_text().splitlines() if FAILURES.exists() else []
    return {_named(line): line.partition(" ")[0] for line in lines}


def _run_all(chosen: list[str], level: int) -> Iterator[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as cache:
        workers = Workers(os.environ.get("WHET_CACHE_DIR", cache), level)  # noqa: TID251
        for name in chosen:
            yield (name, *workers.run(name))
        workers.close()


def main() -> None:
    """Run tests, say what fails, and on request add what passes to the list."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.level)
        return
    chosen = [n for n in names() if not args.patterns or any(p in n for p in args.patterns)]
    counts: Counter[str] = Counter()
    passed = set(read_passes())
    failed: list[str] = []
    for name, status, why in _run_all(chosen, args.level):
        counts[status] += 1
        if status == PASSED:
            passed.add(name)
        elif status != "none":
            sys.stdout.write(f"{status} {name}: {why}\n")
            sys.stdout.flush()
            failed.append(f"{status} {name}: {why.splitlines()[0]}\n")
    sys.stdout.write(f"{dict(counts)}\n")
    if args.update:
        PASSES.write_text("".join(f"{n}\n" for n in sorted(passed)))
    if args.update:
        _write_failures(set(chosen), failed)


def _write_failures(chosen: set[str], failed: list[str]) -> None:
    """Replace the lines of the tests that were run."""
    lines = FAILURES.read_text().splitlines(keepends=True) if FAILURES.exists() else []
    kept = [line for line in lines if _named(line) not in chosen]
    FAILURES.write_text("".join(sorted([*kept, *failed], key=_named)))


def _named(line: str) -> str:
    return line.split(" ", 2)[1].removesuffix(":")


MODULE = "whet.tests.backend_suite"

if __name__ == "__main__":
    main()
