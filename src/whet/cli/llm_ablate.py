"""``whet llm ablate``: what each optimisation brings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from whet.cli import output
from whet.cli.llm_options import model_argument, threads_option, tokens_options
from whet.cli.parameters import json_option


@click.command("ablate")
@model_argument
@tokens_options(32, 64)
@click.option("--batch", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "int4"]),
    default="int8",
    show_default=True,
    help="Of the weights, in the last variant.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@threads_option
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with charts too.")
@json_option
def ablate(model: Path, html: Path | None, as_json: bool, **values: Any) -> None:
    """Measure MODEL with fusion, cache, batching and fewer bits switched on one after another.

    Example: whet llm ablate folder --batch 8 --html ablation.html
    """
    from whet.llm.measure.ablation import Load, ladder
    from whet.llm.measure.ablation import ablate as measure

    if html is not None:
        output.check_writable(html)
    batch = values["batch"]
    load = Load(values["prompt_tokens"], values["new_tokens"], batch, values["rounds"])
    variants = ladder(batch, values["precision"])
    rows = measure(model, variants, load, threads=values["threads"])
    facts = {"model": str(model), "load": asdict(load), "rows": [r.as_dict() for r in rows]}
    if html is not None:
        from whet.report.ablation_page import ablation_page

        output.write_text(html, ablation_page(facts))
    if as_json:
        output.print_json(facts, "whet.llm.ablate.1")
        return
    click.echo(f"{'variant':<12} {'latency ms':>11} {'tokens/s':>9} {'memory MiB':>11} {'same':>6}")
    for row in rows:
        click.echo(
            f"{row.name:<12} {row.latency_ms:11.1f} {row.throughput:9.1f} "
            f"{row.memory_bytes / 2**20:11.1f} {row.same_tokens:6.1%}"
        )
