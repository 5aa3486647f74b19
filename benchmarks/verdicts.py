"""Are the verdicts of ``whet compare`` right? A file against itself, and against a slower one.

    python -m benchmarks.verdicts --runs 100 --output verdicts.jsonl
    python -m benchmarks.verdicts --merge monday.jsonl friday.jsonl

Every run is a command of its own in a process of its own. The slower file does the same work 42
times where the other does it 40 times: 5 % more. Runs alternate between the two questions and are
written down one by one, so that an interrupted series goes on; ``--seconds`` ends a part of it,
``--merge`` adds up parts. The exit code is 1 if too few verdicts are right.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
    kept = ("verdict", "ratio", "low", "high", "rounds", "block", "precise")
    return {
        "question": question,
        **{key: facts[key] for key in kept},
        "seconds": round(time.perf_counter() - started, 1),
        "load": os.getloadavg()[0],
    }


def read_answers(path: Path) -> list[dict[str, object]]:
    """Read the answers of a series so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def right_share(answers: list[dict[str, object]], question: str) -> tuple[int, int]:
    """Return how many answers to a question are right, and how many there are."""
    mine = [answer for answer in answers if answer["question"] == question]
    return sum(answer["verdict"] == WANTED[question][0] for answer in mine), len(mine)


def enough(answers: list[dict[str, object]]) -> bool:
    """Tell whether as many verdicts are right as wanted."""
    shares = ((right_share(answers, question), wanted) for question, (_, wanted) in WANTED.items())
    return all(100 * right >= wanted * count for (right, count), wanted in shares)


def summary(answers: list[dict[str, object]]) -> str:
    """Return a line for each question: verdicts, ratios, rounds, and how busy the machine was."""
    lines = []
    for question, (right, wanted) in WANTED.items():
        mine = [answer for answer in answers if answer["question"] == question]
        if not mine:
            continue
        ratios, rounds, seconds, load = (
            np.array([answer.get(name, np.nan) for answer in mine], float)
            for name in ("ratio", "rounds", "seconds", "load")
        )
        precise = sum(bool(answer["precise"]) for answer in mine)
        lines.append(
            f"{question}: {right_share(answers, question)[0]} of {len(mine)} {right!r} "
            f"(wanted: {wanted} of 100); ratio {np.median(ratios):.4f} ({ratios.min():.4f} to "
            f"{ratios.max():.4f}), rounds {np.median(rounds):.0f} (at most {rounds.max():.0f}), "
            f"precise {precise}, {np.median(seconds):.0f} s each (at most {seconds.max():.0f}), "
            f"load {np.nanmedian(load):.1f}"
        )
    return "\n".join(lines)


def collect(given: argparse.Namespace) -> list[dict[str, object]]:
    """Ask until the runs or the time are over; returns all answers of the series."""
    answers, started = read_answers(given.output), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, given.output.open("a") as file:
        plain, slower = compile_both(Path(folder), given.threads)
        while len(answers) < 2 * given.runs and time.perf_counter() - started < given.seconds:
            question = (SAME, PLANTED)[len(answers) % 2]
            answers.append(ask(question, plain, slower))
            file.write(json.dumps(answers[-1]) + "\n")
            file.flush()
    return answers


def main() -> None:
    """Run a series, go on with one, or add up several."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="of each question")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="answers, one a line")
    where.add_argument("--merge", type=Path, nargs="+", help="answers of earlier series")
    given = parser.parse_args()
    if given.merge:
        answers = [answer for path in given.merge for answer in read_answers(path)]
    else:
        answers = collect(given)
    print(summary(answers))
    raise SystemExit(0 if enough(answers) else 1)


if __name__ == "__main__":
    main()
