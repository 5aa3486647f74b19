"""``whet llm transcribe`` and ``translate``: encoder–decoders."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from whet.cli import output
from whet.cli.llm_options import max_tokens_option, model_argument, threads_option
from whet.cli.parameters import json_option
from whet.errors import InputError
from whet.options import Options

if TYPE_CHECKING:
    import numpy.typing as npt


@click.command("transcribe")
@model_argument
@click.argument("sound", type=click.Path(path_type=Path))
@click.option("--language", default="en", show_default=True, help="What is spoken.")
@click.option("--translate", is_flag=True, help="Answer in English, whatever is spoken.")
@max_tokens_option(256)
@threads_option
@json_option
def transcribe(model: Path, sound: Path, as_json: bool, **values: Any) -> None:
    """Write down what is said in SOUND, a WAV file of 16 kHz, with a Whisper in folder MODEL.

    Example: whet llm transcribe whisper-tiny speech.wav --language de
    """
    from whet.llm.sampling import SamplingParams
    from whet.llm.seq2seq import Seq2Seq

    samples = read_wave(sound)
    whisper = Seq2Seq(model, options=Options(threads=values["threads"]))
    task = "translate" if values["translate"] else "transcribe"
    begin = whisper.named(f"<|{values['language']}|>", f"<|{task}|>", "<|notimestamps|>")
    params = SamplingParams(max_tokens=values["max_tokens"])
    found = whisper.transcribe(samples, params, begin)
    if as_json:
        output.print_json({"text": found.text, "tokens": list(found.tokens)}, "whet.llm.text.1")
        return
    click.echo(found.text.strip())


@click.command("translate")
@model_argument
@click.option("--text", "texts", multiple=True, required=True, help="May be repeated.")
@max_tokens_option(256)
@threads_option
@json_option
def translate(
    model: Path, texts: tuple[str, ...], max_tokens: int, threads: int, as_json: bool
) -> None:
    """Write what MODEL, a folder with a Marian or a T5, makes of texts.

    Example: whet llm translate opus-mt-en-de --text "Good morning."
    """
    from whet.llm.sampling import SamplingParams
    from whet.llm.seq2seq import Seq2Seq

    translator = Seq2Seq(model, options=Options(threads=threads))
    found = translator.generate(texts, SamplingParams(max_tokens=max_tokens))
    if as_json:
        output.print_json({"texts": [t.text for t in found]}, "whet.llm.texts.1")
        return
    for target in found:
        click.echo(target.text)


def read_wave(path: Path) -> npt.NDArray[np.float32]:
    """Return the samples of a WAV file; several channels become their mean.

    Raises:
        InputError: it is no WAV file of 16-bit numbers, 16,000 a second.
    """
    try:
        with wave.open(str(path)) as file:
            kind = (file.getframerate(), file.getsampwidth())
            channels, data = file.getnchannels(), file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the sound cannot be read: {reason}", where=str(path), hint="give a WAV file"
        ) from error
    if kind != (16_000, 2):
        raise InputError(
            f"the sound has {8 * kind[1]} bits, {kind[0]} times a second",
            where=str(path),
            hint="convert it: ffmpeg -i sound -ar 16000 -ac 1 -c:a pcm_s16le sound.wav",
        )
    whole = np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], "<i2")
    samples = whole.reshape(-1, channels).mean(1) / 32768
    return np.asarray(samples, np.float32)
