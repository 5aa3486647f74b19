"""Are the verdicts of ``whet compare`` right? A file against itself, and against a slower one.

    python -m benchmarks.verdicts --runs 100 --output verdicts.jsonl

Every run is a command of its own in a process of its own. The slower file does the same work 42
times where the other does it 40 times: 5 % more. Runs alternate between the two questions and are
written down one by one, so that an interrupted series goes on; ``--seconds`` ends a part of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LAYERS = 40
SLOWER = 42
ROWS, WIDTH = 64, 256
SAME, PLANTED = "same", "planted"
WANTED = {SAME: ("no significant difference", 95), PLANTED: ("slower", 90)}
"""The right verdict of each question, and how many of 100 have to be right."""


def write_chain(path: Path, layers: int) -> None:
    """Write a model of equal layers, each a product with the same weights and a Relu."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((WIDTH, WIDTH)) * (2 / WIDTH) ** 0.5).astype(np.float32)
    nodes = []
    for layer in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"x{layer}", "w"], [f"h{layer}"]),
            helper.make_node("Relu", [f"h{layer}"], [f"x{layer + 1}"]),
        ]
    shape = (ROWS, WIDTH)
    ends = (helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n in (0, layers))
    x, y = ends
    graph = helper.make_graph(nodes, "chain", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def compile_both(folder: Path, threads: int) -> tuple[Path, Path]:
    """Compile the plain model and the slower one."""
    made = []
    for name, layers in (("plain", LAYERS), ("slower", SLOWER)):
        model, compiled = folder / f"{name}.onnx", folder / f"{name}.whet"
        write_chain(model, layers)
        _whet("compile", str(model), "-o", str(compiled), "--threads", str(threads))
        made.append(compiled)
    return made[0], made[1]


def _whet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whet.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done


def ask(question: str, plain: Path, slower: Path) -> dict[str, object]:
    """Run the command once; returns the facts of its answer."""
    other = plain if question == SAME else slower
    started = time.perf_counter()
    facts = json.loads(_whet("compare", str(plain), str(other), "--json").stdout)
    kept = ("verdict", "ratio", "low", "high", "rounds", "precise")
    seconds = round(time.perf_counter() - started, 1)
    return {"question": question, **{key: facts[key] for key in kept}, "seconds": seconds}


def read_answers(path: Path) -> list[dict[str, object]]:
    """Read the answers of a series so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(answers: list[dict[str, object]]) -> str:
    """Return a line for each question: verdicts, ratios, rounds."""
    lines = []
    for question, (right, wanted) in WANTED.items():
        mine = [answer for answer in answers if answer["question"] == question]
        if not mine:
            continue
        counts = Counter(str(answer["verdict"]) for answer in mine)
        ratios = np.array([answer["ratio"] for answer in mine], float)
        rounds = np.array([answer["rounds"] for answer in mine], float)
        precise = sum(bool(answer["precise"]) for answer in mine)
        lines.append(
            f"{question}: {counts[right]} of {len(mine)} {right!r} (wanted: {wanted} of 100); "
            f"ratio {np.median(ratios):.4f} ({ratios.min():.4f} to {ratios.max():.4f}), "
            f"rounds {np.median(rounds):.0f} (at most {rounds.max():.0f}), precise {precise}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run a series, or go on with one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="of each question")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--output", type=Path, required=True, help="answers, one a line")
    given = parser.parse_args()
    answers, started = read_answers(given.output), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, given.output.open("a") as file:
        plain, slower = compile_both(Path(folder), given.threads)
        while len(answers) < 2 * given.runs and time.perf_counter() - started < given.seconds:
            question = (SAME, PLANTED)[len(answers) % 2]
            answers.append(ask(question, plain, slower))
            file.write(json.dumps(answers[-1]) + "\n")
            file.flush()
    print(summary(answers))


if __name__ == "__main__":
    main()
