"""What ``whet llm serve`` serves: the kind of model decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.cli.llm_options import load_model, model_source
from whet.errors import OptionError, UnsupportedError
from whet.llm.checkpoints.pooling import makes_vectors
from whet.llm.embedder import Embedder
from whet.llm.encoder import Encoder, is_encoder
from whet.llm.seq2seq.model import Seq2Seq, is_seq2seq
from whet.options import Options
from whet.serve.app import application
from whet.serve.encoder_app import encoder_application
from whet.serve.front import IMAGE_BODY_BYTES, Settings
from whet.serve.seq2seq_app import AUDIO_BODY_BYTES, seq2seq_application

if TYPE_CHECKING:
    from starlette.applications import Starlette


def served(model: Path, options: Mapping[str, Any]) -> Starlette:
    """Return the application that serves a model."""
    settings = Settings(options["name"] or model.stem, options["api_key"], options["max_requests"])
    settings = replace(settings, adapters=_adapters(settings.name, options["loras"]))
    threads = Options(threads=options["threads"])
    alone = options["embeddings"] or is_encoder(model) or is_seq2seq(model) or makes_vectors(model)
    if alone and settings.adapters:
        raise UnsupportedError("only a decoder that writes has adapters", hint="leave --lora out")
    if is_encoder(model):
        return encoder_application(Encoder(model, options=threads), settings)
    if options["embeddings"] or makes_vectors(model):
        source, length = model_source(model, options), options["context"]
        return encoder_application(Embedder(source, options=threads, context=length), settings)
    if is_seq2seq(model):
        writer = Seq2Seq(model, options=threads)
        if writer.shape.bands:
            settings = replace(settings, body_bytes=AUDIO_BODY_BYTES)
        return seq2seq_application(writer, settings)
    llm = load_model(model, options)
    if llm.prompts.encoder is not None:
        settings = replace(settings, body_bytes=IMAGE_BODY_BYTES)
    return application(llm, settings)


def _adapters(name: str, loras: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
    names = tuple(one for one, _ in loras)
    if len({name, *names}) <= len(names):
        raise OptionError("two models have the same name", hint="give each --lora one of its own")
    return names
