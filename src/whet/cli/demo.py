"""``whet demo``: a real network from nothing to a checked, timed, compiled file in a minute."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import whet
from whet.cli import demo_network, demo_report, exits, output
from whet.cli.opening import Array, CompiledModel, ReadyRunner
from whet.cli.parameters import NumberRange, json_option
from whet.cli.progress import ProgressBar
from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.peers import OrtRunner
from whet.measure.runner import Runner
from whet.measure.statistics import compare, noise_of, summarise

if TYPE_CHECKING:
    import onnx

_STEPS = 6
_ROUNDS = 100


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path),
    default=Path("resnet50.whet"),
    show_default=True,
    help="Where to write the compiled file.",
)
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0 takes every CPU.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of weights and input.")
@click.option(
    "--seconds",
    type=NumberRange(0.0, 600.0),
    default=10.0,
    show_default=True,
    help="Time to spend on measuring.",
)
@click.option("--onnx", "onnx_file", type=click.Path(path_type=Path), metavar="F",
              help="Write the network to F as an ONNX file, and do nothing else.")  # fmt: skip
@json_option
@click.pass_context
def command(ctx: click.Context, /, file: Path, threads: int, **values: Any) -> None:
    """Compile ResNet-50 with random weights, check it and time it; no network needed.

    Latencies are the median of all calls, their best, and, what other programs disturb least, the
    median over blocks of calls in a row of the shortest. Throughput and the comparison come from
    the blocks.

    Example: whet demo --seconds 5
    """
    seed, seconds = values["seed"], values["seconds"]
    if values["onnx_file"] is not None:
        _write_network(values["onnx_file"], seed, as_json=values["as_json"])
        return
    output.check_writable(file)
    found = demonstrate(file, whet.Options(threads=threads), seed=seed, seconds=seconds)
    if values["as_json"]:
        output.print_json(demo_report.as_json(found), schema="whet.demo.1")
    else:
        demo_report.print_findings(output.stdout(), found)
    if not found.correct:
        ctx.exit(exits.NEGATIVE)


def _write_network(file: Path, seed: int, *, as_json: bool) -> None:
    """Write the network as an ONNX file."""
    network = demo_network.build_network(seed).SerializeToString()
    output.write_whole(file, lambda to: to.write(network))
    if as_json:
        output.print_json({"onnx": str(file)}, schema="whet.demo_network.1")
    else:
        output.stdout().print(f"wrote {file}", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The network compiled twice, the second time through a file.

    Attributes:
        plain: without optimisation.
        loaded: with optimisation, loaded from the file.
        compile_s: seconds that compiling with optimisation took.
        load_s: seconds that loading took.
    """

    plain: CompiledModel
    loaded: CompiledModel
    compile_s: float
    load_s: float


def demonstrate(
    file: Path, options: whet.Options, *, seed: int, seconds: float
) -> demo_report.Findings:
    """Build, compile, save, load, verify and measure."""
    _announce(1, "building ResNet-50 with random weights")
    network = demo_network.build_network(seed)
    inputs = {demo_network.INPUT: demo_network.random_image(seed + 1)}
    made = _compile_both(network, file, options)
    with tempfile.TemporaryDirectory(prefix="whet-demo-") as folder:
        peer = _open_peer(network, Path(folder), options)
        judge = demo_report.PEER if peer else "onnx.reference"
        _announce(5, f"comparing the output with {judge}'s")
        expected = peer.run(inputs) if peer else _run_reference(network, inputs)
        name = demo_network.OUTPUT
        error = relative_error(made.loaded.run(inputs)[name], expected[name])
        _announce(6, f"measuring for {seconds:.0f} s, taking turns")
        runners: list[Runner] = [
            ReadyRunner(demo_report.UNOPTIMISED, made.plain.run),
            ReadyRunner(demo_report.OPTIMISED, made.loaded.run),
        ]
        samples = _measure([*runners, peer] if peer else runners, inputs, seconds)
    return demo_report.Findings(
        file=file,
        judge=judge,
        error=error,
        noise=noise_of(samples),
        times={name: summarise(taken) for name, taken in samples.seconds.items()},
        comparisons=tuple(
            compare(samples, demo_report.OPTIMISED, name)
            for name in samples.seconds
            if name != demo_report.OPTIMISED
        ),
        stats={
            demo_report.UNOPTIMISED: made.plain.stats,
            demo_report.OPTIMISED: made.loaded.stats,
        },
        compile_s=made.compile_s,
        load_s=made.load_s,
    )


def _announce(step: int, what: str) -> None:
    """Say which step begins."""
    output.note(f"[{step}/{_STEPS}] {what}")


def _compile_both(network: onnx.ModelProto, file: Path, options: whet.Options) -> Compiled:
    """Compile without and with optimisation; write the latter and load it back."""
    _announce(2, "compiling without optimisation, for comparison")
    plain = _compile(network, whet.Options(threads=options.threads, opt_level=0))
    _announce(3, "compiling with optimisation")
    start = time.perf_counter()
    compiled = _compile(network, options)
    compile_s = time.perf_counter() - start
    _announce(4, f"writing {file} and loading it")
    compiled.save(file)
    start = time.perf_counter()
    loaded: CompiledModel = whet.load(file)
    return Compiled(plain, loaded, compile_s, time.perf_counter() - start)


def _compile(network: onnx.ModelProto, options: whet.Options) -> CompiledModel:
    """Compile with a progress bar."""
    with ProgressBar() as progress:
        compiled: CompiledModel = whet.compile(network, options=options, progress=progress)
    return compiled


def _open_peer(network: onnx.ModelProto, folder: Path, options: whet.Options) -> Runner | None:
    """Open the network in ONNX Runtime where that is installed."""
    if find_spec("onnxruntime") is None:
        return None
    path = folder / "resnet50.onnx"
    path.write_bytes(network.SerializeToString())
    runner = OrtRunner(path, options.thread_count)
    runner.prepare()
    runner.name = demo_report.PEER
    return runner


def _run_reference(network: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run the reference implementation of the ``onnx`` package; it takes about a second."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(network)
    values = evaluator.run([demo_network.OUTPUT], dict(inputs))
    return {demo_network.OUTPUT: np.asarray(values[0])}


def relative_error(result: Array, expected: Array) -> float:
    """Return the largest relative error of a probability; NaN if any is NaN."""
    if result.shape != expected.shape:
        return float("inf")
    wide, truth = result.astype(np.float64), expected.astype(np.float64)
    return float(np.max(np.abs(wide - truth) / truth))


def _measure(runners: list[Runner], inputs: Mapping[str, Array], seconds: float) -> Samples:
    """Time the runners call by call in turn."""
    plan = Plan(rounds=_ROUNDS, duration_s=seconds, warm_up=2, lead_in=1)
    with ProgressBar() as progress:
        return measure_interleaved(runners, [inputs], plan, progress)
