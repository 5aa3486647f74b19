"""``whet llm``: complete, chat, measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whet.cli import output
from whet.cli.llm_ablate import ablate
from whet.cli.llm_against import Sizes, beside
from whet.cli.llm_options import (
    load_model,
    model_argument,
    model_options,
    named_folders,
    sampling_options,
    sampling_params,
)
from whet.cli.llm_quantize import quantize
from whet.cli.llm_transcribe import transcribe, translate
from whet.cli.parameters import json_option
from whet.errors import InputError, UnsupportedError
from whet.options import Options

if TYPE_CHECKING:
    from whet.llm import Completion


@click.group("llm")
def command() -> None:
    """Run language models: a folder of safetensors with config.json, or a GGUF file.

    Example: whet llm run folder --prompt "Once upon a time" --max-tokens 50
    """


for extra in (ablate, quantize, transcribe, translate):
    command.add_command(extra)


@command.command("run")
@model_argument
@click.option("--prompt", "prompts", multiple=True, required=True, help="May be repeated.")
@click.option("--tokens", "as_tokens", is_flag=True, help="Prompts are token numbers: 1,2,3.")
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Ask the one prompt about it, as a chat does; may be repeated.",
)
@sampling_options
@model_options
@json_option
def run(
    model: Path,
    prompts: tuple[str, ...],
    as_tokens: bool,
    images: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Complete prompts, all of them together.

    Example: whet llm run model.gguf --prompt "The capital of France is" --max-tokens 8

    Example: whet llm run llava-folder --image photo.jpg --prompt "What is this?"
    """
    if images and (len(prompts) > 1 or as_tokens):
        raise click.BadParameter("goes with one prompt of text", param_hint="'--image'")
    llm = load_model(model, options)
    params = sampling_params(options)
    given: list[Any] = [_numbers(p) for p in prompts] if as_tokens else list(prompts)
    if images:
        completions = [llm.chat(_asked_about(images, prompts[0]), params)]
    else:
        completions = llm.generate(given, params)
    if as_json:
        output.print_json({"completions": [_facts(c) for c in completions]}, "whet.llm.run.1")
        _check_faults(completions)
        return
    for prompt, completion in zip(prompts, completions, strict=True):
        said = completion.text if llm.tokenizer else ",".join(map(str, completion.tokens))
        click.echo(f"{prompt}{'' if llm.tokenizer else ' → '}{said}")
    _check_faults(completions)


def _check_faults(completions: Sequence[Completion]) -> None:
    """Raise what went wrong with the first completion that failed, behind all that was printed."""
    for completion in completions:
        if completion.fault is not None:
            raise completion.fault


def _asked_about(images: Sequence[Path], prompt: str) -> list[dict[str, Any]]:
    """Return a conversation of one message, the images in front of the text."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": path} for path in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


@command.command("chat")
@model_argument
@click.option("--system", default="", help="What the model is told first.")
@sampling_options
@model_options
def chat(model: Path, system: str, **options: Any) -> None:
    """Talk to MODEL, line by line; an empty line or end of input ends it, Ctrl-C an answer.

    Example: whet llm chat folder --system "Answer briefly." --temperature 0.7
    """
    llm = load_model(model, options)
    params = sampling_params(options)
    messages = [{"role": "system", "content": system}] if system else []
    for line in iter(_asked, ""):
        messages.append({"role": "user", "content": line})
        try:
            prompt = llm.chat_prompt(messages)
            messages.append({"role": "assistant", "content": _said(llm.stream(prompt, params))})
        except InputError as error:  # the conversation goes on without the line
            output.note(str(error))
            messages.pop()


def _said(pieces: Iterator[str]) -> str:
    """Print an answer as it comes, and return it; Ctrl-C ends it early."""
    text = ""
    try:
        for piece in pieces:
            click.echo(piece, nl=False)
            text += piece
    except KeyboardInterrupt:
        pass
    click.echo()
    return text


def _asked() -> str:
    try:
        return str(click.prompt(">", prompt_suffix=" ", default="", show_default=False))
    except click.Abort:
        return ""


@command.command("bench")
@model_argument
@click.option(
    "--prompt-tokens",
    "lengths",
    type=click.IntRange(1),
    multiple=True,
    help="Of each prompt; may be repeated.  [default: 128]",
)
@click.option("--new-tokens", type=click.IntRange(2), default=32, show_default=True)
@click.option(
    "--behind",
    "contexts",
    type=click.IntRange(1),
    multiple=True,
    help="Decode behind so many positions; may be repeated.  [default: a quarter of a prompt]",
)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="May be repeated.")
@click.option("--against", type=click.Choice(["llama.cpp"]), help="Take turns with it, on a GGUF.")
@model_options
@json_option
def bench(
    model: Path,
    lengths: tuple[int, ...],
    batches: tuple[int, ...],
    against: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prefill and decode of MODEL: tokens a second, time to the first token and between.

    Every prompt length is measured with every batch. With --against, steps of both take turns;
    the ratio is the other's time over Whet's.

    Example: whet llm bench folder --prompt-tokens 256 --new-tokens 32 --batch 1 --batch 8
    """
    from whet.llm.measure.bench import measure

    new_tokens, contexts = int(options.pop("new_tokens")), tuple(options.pop("contexts"))
    if against is None and contexts:
        raise click.BadParameter(
            "goes with --against; without it repeat --prompt-tokens", param_hint="'--behind'"
        )
    lengths, batches = lengths or (128,), batches or (1,)
    llm = load_model(model, options)
    if against is not None:
        peer = (model, against, Options(threads=options["threads"]).thread_count)
        contexts = contexts or (lengths[0] // 4 + 1,)
        beside(llm, peer, Sizes(lengths, contexts, batches, new_tokens), as_json=as_json)
        return
    pairs = [(batch, length) for length in lengths for batch in batches]
    rows = [measure(llm, batch, length, new_tokens) for batch, length in pairs]
    if as_json:
        output.print_json({"runs": [row.as_dict() for row in rows]}, "whet.llm.bench.1")
        return
    click.echo(
        f"{'prompt':>6} {'batch':>5} {'prefill tok/s':>14} {'decode tok/s':>13} {'first ms':>9} "
        f"{'next ms':>8}"
    )
    for row in rows:
        click.echo(
            f"{row.prompt_tokens:6} {row.batch:5} {row.prefill_rate:14.1f} {row.decode_rate:13.1f} "
            f"{row.first_ms:9.1f} {row.next_ms:8.1f}"
        )


@command.command("serve")
@model_argument
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--api-key", envvar="WHET_API_KEY", default="", help="Callers have to give it.")
@click.option("--name", default="", help="What the model is called; by default its file name.")
@click.option("--max-requests", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--drain-seconds",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="When interrupted, let answers end for so long.",
)
@click.option("--embeddings", is_flag=True, help="Make vectors with a decoder, not texts.")
@click.option(
    "--lora",
    "loras",
    metavar="NAME=FOLDER",
    callback=named_folders,
    multiple=True,
    help="A LoRA beside the weights, a model of its own to callers; may be repeated.",
)
@model_options
def serve(model: Path, host: str, port: int, **options: Any) -> None:
    """Serve MODEL over the OpenAI API, until interrupted; a page to chat on is at /.

    An encoder, such as BERT, answers /v1/embeddings and /v1/rerank instead, a decoder whose folder
    says how to pool, or with --embeddings, /v1/embeddings, a Whisper /v1/audio/transcriptions and
    /v1/audio/translations, a Marian or a T5 /v1/completions.

    Example: whet llm serve folder --port 8000 --api-key secret

    Example: whet llm serve folder --lora polite=adapter-folder
    """
    try:
        import uvicorn

        from whet.cli.llm_serve import served
    except ImportError as error:
        raise UnsupportedError(
            f"the server needs a package: {error}", hint="pip install 'whet[serve]'"
        ) from error
    uvicorn.run(
        served(model, options),
        host=host,
        port=port,
        timeout_graceful_shutdown=options["drain_seconds"],
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a list of numbers, such as 1,2,3", param_hint="'--prompt'"
        ) from error


def _facts(completion: Any) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": list(completion.tokens),
        "reason": completion.reason,
        "prompt_tokens": completion.prompt_tokens,
        "cached_tokens": completion.cached_tokens,
    }
