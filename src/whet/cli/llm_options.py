"""What the commands below ``whet llm`` take alike, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from whet.options import Options

if TYPE_CHECKING:
    from whet.llm import LLM, SamplingParams
    from whet.llm.source import Source

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

model_argument = click.argument("model", type=click.Path(path_type=Path))
threads_option = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, help="0 for all CPUs."
)


def named_folders(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> list[tuple[str, Path]]:
    """Return names and folders of ``NAME=FOLDER``, as a callback of an option."""
    found = []
    for value in values:
        name, _, folder = value.partition("=")
        if not name or not folder:
            example = "such as polite=adapter-folder"
            raise click.BadParameter(f"{value!r} is no NAME=FOLDER, {example}", context, option)
        found.append((name, Path(folder)))
    return found


def max_tokens_option(default: int) -> Callable[[Decorated], Decorated]:
    """Return the option that says how many tokens may come."""
    return click.option("--max-tokens", type=click.IntRange(1), default=default, show_default=True)


def tokens_options(new: int, prompt: int) -> Callable[[Decorated], Decorated]:
    """Return the options that say how long the prompts of a measurement are, and what follows."""

    def decorate(command: Decorated) -> Decorated:
        for name, least, default in (("--new-tokens", 2, new), ("--prompt-tokens", 1, prompt)):
            kind = click.IntRange(least)
            command = click.option(name, type=kind, default=default, show_default=True)(command)
        return command

    return decorate


_LOADING = (
    click.option("--adapter", type=click.Path(path_type=Path), help="A folder with a LoRA."),
    click.option("--context", type=click.IntRange(0), default=0, help="Tokens of a sequence."),
    click.option("--speculate", default="off", show_default=True,
                 help="Guess tokens: off, prompt (what followed before), or a smaller model."),
    click.option("--weights", type=click.Choice(["stored", "float32", "int8", "int4"]),
                 default="stored", show_default=True,
                 help="As they are stored, dequantised, or brought into so many bits."),
    click.option("--cache-type", type=click.Choice(["float32", "float16", "bfloat16", "int8"]),
                 default="float32", show_default=True, help="Type of keys and values."),
    click.option("--cache-mib", type=click.IntRange(1), default=1024, show_default=True,
                 help="Memory for keys and values."),
    click.option("--keep/--no-keep", default=True, show_default=True,
                 help="Whether a large model is kept compiled for the next time."),
)  # fmt: skip

_SAMPLING = (
    click.option("--temperature", type=float, default=0.0, help="0 takes the likeliest."),
    click.option("--top-k", type=int, default=0, help="Draw from so many; 0 for all."),
    click.option("--top-p", type=float, default=1.0, help="Draw from this much probability."),
    click.option("--min-p", type=float, default=0.0, help="Leave out what is less likely."),
    click.option("--repetition-penalty", type=float, default=1.0),
    click.option("--seed", type=int, help="Makes draws repeatable."),
    click.option("--stop", multiple=True, help="A text that ends it; may be repeated."),
)


def model_options(command: Decorated) -> Decorated:
    """Add what says how a model is loaded; see ``load_model``."""
    for option in reversed((threads_option, *_LOADING)):
        command = option(command)
    return command


def sampling_options(command: Decorated) -> Decorated:
    """Add what says how tokens are chosen; see ``sampling_params``."""
    for option in reversed((max_tokens_option(128), *_SAMPLING)):
        command = option(command)
    return command


def model_source(model: Path, options: Mapping[str, Any]) -> Source:
    """Return where a model comes from, as the values of ``model_options`` say."""
    from whet.llm.source import KEEP_FROM, Source

    return Source(
        model,
        weights=options["weights"],
        cache=options["cache_type"],
        adapter=options["adapter"],
        adapters=dict(options.get("loras", ())),
        keep_from=KEEP_FROM if options["keep"] else None,
    )


def load_model(model: Path, options: Mapping[str, Any]) -> LLM:
    """Return a model, loaded as the values of ``model_options`` say."""
    from whet.llm import LLM

    llm = LLM(
        model_source(model, options),
        options=Options(threads=options["threads"]),
        context=options["context"],
        cache_bytes=options["cache_mib"] << 20,
    )
    if options["speculate"] != "off":
        llm.speculate(None if options["speculate"] == "prompt" else options["speculate"])
    return llm


def sampling_params(options: Mapping[str, Any]) -> SamplingParams:
    """Return how tokens are chosen, as the values of ``sampling_options`` say."""
    from whet.llm import SamplingParams

    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return SamplingParams(**{n: options[n] for n in names}, stop=tuple(options["stop"]))
