"""``whet llm quantize``: a checkpoint folder becomes one of few bits, with its perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from whet.cli import output
from whet.cli.llm_options import threads_option
from whet.cli.parameters import json_option
from whet.errors import InputError
from whet.options import Options

if TYPE_CHECKING:
    from whet.llm import LLM

WINDOW = 256


@click.command("quantize")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["Q8_0", "Q4_0", "Q4_1"]),
    default="Q8_0",
    show_default=True,
    help="8 bits; 4 bits; 4 bits with minimums.",
)
@click.option(
    "--method",
    type=click.Choice(["plain", "gptq", "awq"]),
    default="plain",
    show_default=True,
    help="How weights are rounded; all but plain need --text.",
)
@click.option("--text", type=click.Path(path_type=Path), help="A text file to calibrate with.")
@click.option("--check", type=click.Path(path_type=Path), help="A text file for the perplexity.")
@threads_option
@json_option
def quantize(
    folder: Path, target: Path, kind: str, method: str, as_json: bool, **options: object
) -> None:
    """Write the matrices of FOLDER in blocks of few bits into a new folder.

    With --check, the perplexity of a text is measured before and after.

    Example: whet llm quantize folder -o folder-q4 --format Q4_1 --method gptq --text some.txt
    """
    from whet.llm.quantize import Recipe, quantize_folder
    from whet.quantize.rounding import gptq_rows

    settings = Options(threads=int(str(options["threads"])))
    text, check = options["text"], options["check"]
    before = None if check is None else _open(folder, settings)
    chunks: list[list[int]] = []
    if text is not None:
        tokens = _tokens(before or _open(folder, settings), Path(str(text)))
        chunks = [tokens[k : k + WINDOW] for k in range(0, len(tokens), WINDOW)]
    recipe = Recipe(kind, method, chunks, gptq_rows, settings)  # type: ignore[arg-type]
    names = quantize_folder(folder, target, recipe)
    facts: dict[str, object] = {"matrices": len(names), "format": kind, "method": method}
    if before is not None:
        facts |= _compared(before, _open(target, settings), Path(str(check)))
    if as_json:
        output.print_json(facts, "whet.llm.quantize.1")
        return
    click.echo(f"{len(names)} matrices became {kind} ({method}): {target}")
    if before is not None:
        click.echo(f"perplexity {facts['before']:.4f} → {facts['after']:.4f}")


def _open(folder: Path, options: Options) -> LLM:
    from whet.llm import LLM

    return LLM(folder, options=options, sequences=1)


def _tokens(llm: LLM, path: Path) -> list[int]:
    try:
        return llm.encode(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the text cannot be read: {error}", where=str(path)) from error


def _compared(before: LLM, after: LLM, path: Path) -> dict[str, object]:
    from whet.llm.measure.perplexity import perplexity

    tokens = _tokens(before, path)
    window = min(WINDOW, before.context)
    first, second = (perplexity(llm.program, tokens, window) for llm in (before, after))
    return {"before": first, "after": second, "tokens": len(tokens)}
