"""``whet llm bench --against``: Whet and another engine in turns on one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from whet.cli import output

if TYPE_CHECKING:
    from whet.llm import LLM
    from whet.llm.measure.against import Duel
    from whet.llm.measure.bench import Run


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured.

    Attributes:
        prompts: tokens of prompts, one after another.
        contexts: positions of each sequence in front of the decoding that is measured.
        batches: sequences that are decoded together.
        steps: steps of decoding, for each context and batch.
    """

    prompts: Sequence[int]
    contexts: Sequence[int]
    batches: Sequence[int]
    steps: int


def beside(
    llm: LLM,
    peer: tuple[Path, str, int],
    sizes: Sizes,
    *,
    as_json: bool,
) -> None:
    """Measure and print prefill and decode of Whet and of a peer.

    Args:
        llm: the model in Whet.
        peer: the file, the peer's name, and the threads of both.
        sizes: what is measured.
        as_json: whether to print JSON.
    """
    from whet.llm.measure.against import Turns, streamed_bytes
    from whet.llm.measure.bench import measure
    from whet.llm.measure.llama_cpp import LlamaCpp
    from whet.measure.machine import measure_read

    path, name, threads = peer
    most = max(sizes.batches)
    room = max(*sizes.prompts, *(c + sizes.steps for c in sizes.contexts)) + 2
    with LlamaCpp(path, threads, context=room * most, sequences=most) as other:
        turns = Turns(llm.program, other, llm.architecture.vocabulary)
        duels = [turns.prefill(tokens, 3) for tokens in sizes.prompts]
        before = measure_read(threads)
        pairs = [(batch, context) for context in sizes.contexts for batch in sizes.batches]
        duels += [turns.decode(batch, context, sizes.steps) for batch, context in pairs]
        engine = [measure(llm, batch, context, sizes.steps) for batch, context in pairs]
        read = max(before, measure_read(threads))
    size = streamed_bytes(path)
    if as_json:
        facts = {"against": name, "read_gbytes": read, "streamed_bytes": size}
        rows = [duel.as_dict() for duel in duels]
        whole = [run.as_dict() for run in engine]
        output.print_json({**facts, "duels": rows, "engine": whole}, "whet.llm.against.1")
        return
    _print(duels, name, size / 1e9, read)
    _print_engine(engine, size / 1e9, read)


def _print(duels: Sequence[Duel], name: str, gbytes: float, read: float) -> None:
    click.echo(f"memory gives {read:.1f} GB/s; a step reads {gbytes:.3f} GB of weights")
    heads = f"{'Whet tok/s':>11} {name + ' tok/s':>15} {'ratio':>6} {'GB/s':>6}"
    click.echo(f"{'':8} {'batch':>5} {'behind':>6} {heads}")
    for duel in duels:
        rate = f"{duel.ours / duel.tokens * gbytes:6.1f}" if duel.what == "decode" else f"{'':6}"
        click.echo(
            f"{duel.what:8} {duel.batch if duel.context else duel.tokens:5} {duel.context:6} "
            f"{duel.ours:11.1f} {duel.theirs:15.1f} {duel.ratio:6.2f} {rate}"
        )


def _print_engine(runs: Sequence[Run], gbytes: float, read: float) -> None:
    """Print what the whole engine gives, where planning and choosing tokens take part."""
    click.echo("whole engine, with scheduler and choice of tokens:")
    for run in runs:
        rate = 1e3 / run.next_ms * gbytes
        click.echo(
            f"{'decode':8} {run.batch:5} {run.prompt_tokens:6} "
            f"{1e3 * run.batch / run.next_ms:11.1f} "
            f"{'':15} {'':6} {rate:6.1f}  {rate / read:.0%} of the memory's"
        )
