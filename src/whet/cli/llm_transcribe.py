"""``whet llm transcribe`` and ``translate``: encoder–decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from whet.cli import output
from whet.cli.llm_options import max_tokens_option, model_argument, threads_option
from whet.cli.parameters import json_option
from whet.errors import InputError
from whet.options import Options


@click.command("transcribe")
@model_argument
@click.argument("sound", type=click.Path(path_type=Path))
@click.option("--language", default="", help="What is spoken, such as en; found out if left out.")
@click.option("--translate", is_flag=True, help="Answer in English, whatever is spoken.")
@max_tokens_option(256)
@threads_option
@json_option
def transcribe(model: Path, sound: Path, as_json: bool, **values: Any) -> None:
    """Write down what is said in SOUND with a Whisper in folder MODEL.

    SOUND is a WAV file; with the extra `audio` also FLAC, Ogg or MP3. More than 30 seconds are cut
    where it is quiet.

    Example: whet llm transcribe whisper-tiny speech.wav --language de
    """
    from whet.llm.engine.sampling import SamplingParams
    from whet.llm.seq2seq.model import Seq2Seq
    from whet.llm.seq2seq.sound import read_sound

    samples = read_sound(_bytes(sound), str(sound))
    whisper = Seq2Seq(model, options=Options(threads=values["threads"]))
    task = "translate" if values["translate"] else "transcribe"
    language = values["language"] or whisper.detect(whisper.heard(samples)[0][1])
    params = SamplingParams(max_tokens=values["max_tokens"])
    found = whisper.transcribe(samples, params, whisper.spoken(language, task))
    if as_json:
        output.print_json({"text": found.text, "tokens": list(found.tokens)}, "whet.llm.text.1")
        return
    click.echo(found.text.strip())


@click.command("translate")
@model_argument
@click.option("--text", "texts", multiple=True, required=True, help="May be repeated.")
@click.option(
    "--beams",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Follow so many beginnings and take the likeliest whole.",
)
@max_tokens_option(256)
@threads_option
@json_option
def translate(model: Path, texts: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Write what MODEL, a folder with a Marian or a T5, makes of texts.

    Example: whet llm translate opus-mt-en-de --text "Good morning." --beams 4
    """
    from whet.llm.engine.sampling import SamplingParams
    from whet.llm.seq2seq.model import Seq2Seq

    translator = Seq2Seq(model, options=Options(threads=values["threads"]))
    beams, most = values["beams"], values["max_tokens"]
    if beams > 1:
        made = [translator.beams(t, width=beams, max_tokens=most)[0].text for t in texts]
    else:
        params = SamplingParams(max_tokens=most)
        made = [target.text for target in translator.generate(texts, params)]
    if as_json:
        output.print_json({"texts": made}, "whet.llm.texts.1")
        return
    for text in made:
        click.echo(text)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the sound cannot be read: {error.strerror or error}",
            where=str(path),
            hint="check the path",
        ) from error
