"""``whet llm``: complete, chat, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from whet.cli import output
from whet.cli.llm_ablate import ablate
from whet.cli.llm_against import beside
from whet.cli.llm_quantize import quantize
from whet.cli.llm_transcribe import transcribe, translate
from whet.cli.parameters import json_option
from whet.errors import InputError, UnsupportedError
from whet.options import Options

if TYPE_CHECKING:
    from whet.llm import LLM, SamplingParams

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_MODEL = click.argument("model", type=click.Path(path_type=Path))


def _model_options(command: Decorated) -> Decorated:
    """Add what says how a model is loaded."""
    for option in (
        click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0 for all CPUs."),
        click.option("--adapter", type=click.Path(path_type=Path), help="A folder with a LoRA."),
        click.option("--context", type=click.IntRange(0), default=0, help="Tokens of a sequence."),
        click.option(
            "--speculate",
            default="off",
            show_default=True,
            help="Guess tokens: off, prompt (what followed before), or a smaller model.",
        ),
        click.option(
            "--weights",
            type=click.Choice(["stored", "float32", "int8", "int4"]),
            default="stored",
            show_default=True,
            help="As they are stored, dequantised, or brought into so many bits.",
        ),
        click.option(
            "--cache-type",
            type=click.Choice(["float32", "float16", "bfloat16", "int8"]),
            default="float32",
            show_default=True,
            help="Type of keys and values.",
        ),
        click.option(
            "--cache-mib",
            type=click.IntRange(1),
            default=1024,
            show_default=True,
            help="Memory for keys and values.",
        ),
    ):
        command = option(command)
    return command


def _sampling_options(command: Decorated) -> Decorated:
    """Add what says how tokens are chosen."""
    for option in (
        click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True),
        click.option("--temperature", type=float, default=0.0, help="0 takes the likeliest."),
        click.option("--top-k", type=int, default=0, help="Draw from so many; 0 for all."),
        click.option("--top-p", type=float, default=1.0, help="Draw from this much probability."),
        click.option("--min-p", type=float, default=0.0, help="Leave out what is less likely."),
        click.option("--repetition-penalty", type=float, default=1.0),
        click.option("--seed", type=int, help="Makes draws repeatable."),
        click.option("--stop", multiple=True, help="A text that ends it; may be repeated."),
    ):
        command = option(command)
    return command


@click.group("llm")
def command() -> None:
    """Run language models: a folder of safetensors with config.json, or a GGUF file.

    Example: whet llm run folder --prompt "Once upon a time" --max-tokens 50
    """


for extra in (ablate, quantize, transcribe, translate):
    command.add_command(extra)


@command.command("run")
@_MODEL
@click.option("--prompt", "prompts", multiple=True, required=True, help="May be repeated.")
@click.option("--tokens", "as_tokens", is_flag=True, help="Prompts are token numbers: 1,2,3.")
@_sampling_options
@_model_options
@json_option
def run(
    model: Path, prompts: tuple[str, ...], as_tokens: bool, as_json: bool, **options: Any
) -> None:
    """Complete prompts, all of them together.

    Example: whet llm run model.gguf --prompt "The capital of France is" --max-tokens 8
    """
    llm = _load(model, options)
    params = _params(options)
    given: list[Any] = [_numbers(p) for p in prompts] if as_tokens else list(prompts)
    completions = llm.generate(given, params)
    if as_json:
        output.print_json({"completions": [_facts(c) for c in completions]}, "whet.llm.run.1")
        return
    for prompt, completion in zip(prompts, completions, strict=True):
        said = completion.text if llm.tokenizer else ",".join(map(str, completion.tokens))
        click.echo(f"{prompt}{'' if llm.tokenizer else ' → '}{said}")


@command.command("chat")
@_MODEL
@click.option("--system", default="", help="What the model is told first.")
@_sampling_options
@_model_options
def chat(model: Path, system: str, **options: Any) -> None:
    """Talk to MODEL, line by line; an empty line or end of input ends it, Ctrl-C an answer.

    Example: whet llm chat folder --system "Answer briefly." --temperature 0.7
    """
    llm = _load(model, options)
    params = _params(options)
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
@_MODEL
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--new-tokens", type=click.IntRange(2), default=32, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="May be repeated.")
@click.option("--against", type=click.Choice(["llama.cpp"]), help="Take turns with it, on a GGUF.")
@_model_options
@json_option
def bench(
    model: Path,
    prompt_tokens: int,
    new_tokens: int,
    batches: tuple[int, ...],
    against: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prefill and decode of MODEL: tokens a second, time to the first token and between.

    With --against, steps of both take turns; the ratio is the other's time over Whet's.

    Example: whet llm bench folder --prompt-tokens 256 --new-tokens 32 --batch 1 --batch 8
    """
    from whet.llm.bench import measure

    llm = _load(model, options)
    if against is not None:
        tokens, threads = (prompt_tokens, new_tokens), Options(threads=options["threads"])
        peer = (model, against, threads.thread_count)
        beside(llm, peer, tokens, batches or (1,), as_json=as_json)
        return
    rows = [measure(llm, batch, prompt_tokens, new_tokens) for batch in batches or (1,)]
    if as_json:
        output.print_json({"runs": [row.as_dict() for row in rows]}, "whet.llm.bench.1")
        return
    click.echo(
        f"{'batch':>5} {'prefill tok/s':>14} {'decode tok/s':>13} {'first ms':>9} {'next ms':>8}"
    )
    for row in rows:
        click.echo(
            f"{row.batch:5} {row.prefill_rate:14.1f} {row.decode_rate:13.1f} "
            f"{row.first_ms:9.1f} {row.next_ms:8.1f}"
        )


@command.command("serve")
@_MODEL
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
@_model_options
def serve(model: Path, host: str, port: int, **options: Any) -> None:
    """Serve MODEL over the OpenAI API, until interrupted; a page to chat on is at /.

    An encoder, such as BERT, answers /v1/embeddings and /v1/rerank instead.

    Example: whet llm serve folder --port 8000 --api-key secret
    """
    try:
        import uvicorn

        from whet.serve.app import application
        from whet.serve.encoder_app import encoder_application
        from whet.serve.front import Settings
    except ImportError as error:
        raise UnsupportedError(
            f"the server needs a package: {error}", hint="pip install 'whet[serve]'"
        ) from error
    settings = Settings(options["name"] or model.stem, options["api_key"], options["max_requests"])
    from whet.llm.encoder import Encoder, is_encoder

    if is_encoder(model):
        encoder = Encoder(model, options=Options(threads=options["threads"]))
        app = encoder_application(encoder, settings)
    else:
        app = application(_load(model, options), settings)
    uvicorn.run(
        app,
        host=host,
        port=port,
        timeout_graceful_shutdown=options["drain_seconds"],
    )


def _load(model: Path, options: Mapping[str, Any]) -> LLM:
    from whet.llm import LLM, Source

    llm = LLM(
        Source(model, options["weights"], options["cache_type"], options["adapter"]),
        options=Options(threads=options["threads"]),
        context=options["context"],
        cache_bytes=options["cache_mib"] << 20,
    )
    if options["speculate"] != "off":
        llm.speculate(None if options["speculate"] == "prompt" else options["speculate"])
    return llm


def _params(options: Mapping[str, Any]) -> SamplingParams:
    from whet.llm import SamplingParams

    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return SamplingParams(**{n: options[n] for n in names}, stop=tuple(options["stop"]))


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
