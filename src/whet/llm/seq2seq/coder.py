"""The two compiled programs of an encoder–decoder, and what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.driver import compile as compile_model
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.families.seq2seq import seq2seq_of
from whet.llm.graphs.seq2seq_graph import decoder_part, encoder_part
from whet.llm.seq2seq.distance import near_scores
from whet.llm.seq2seq.lines import HIDDEN, Lines
from whet.llm.seq2seq.sinusoids import sinusoids
from whet.options import Options


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a target is made of, checked.

    Attributes:
        tokens: of a text.
        sound: energies, [band, frame]; ``None`` for a text.
        begin: tokens that the target begins with, the model's own first one among them.
    """

    tokens: tuple[int, ...]
    begin: tuple[int, ...]
    sound: Array | None = None

    def __len__(self) -> int:
        """Return how many places the encoder has for it."""
        return len(self.tokens) if self.sound is None else self.sound.shape[1] // 2


class Coder:
    """Encodes sources and runs steps of the decoder.

    Args:
        checkpoint: the model's folder.
        options: how to compile.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family or something in it is not known.
    """

    def __init__(self, checkpoint: TensorFolder, options: Options | None = None) -> None:
        self.shape = shape = seq2seq_of(checkpoint.config)
        self._near: dict[str, Array] = {}
        self._buckets = (
            checkpoint.config.integer("relative_attention_num_buckets", 32),
            checkpoint.config.integer("relative_attention_max_distance", 128),
        )
        for side, stack in (("encoder", shape.encoder), ("decoder", shape.decoder)):
            if stack.relative:
                self._near[side] = checkpoint.tensor(stack.parts["near"].name)
        whole = sinusoids(checkpoint, shape)
        self._encoder = compile_model(encoder_part(shape, whole), options=options)
        self._decoder = compile_model(decoder_part(shape, whole), options=options)
        self._kept = [
            f"{role}.{number}" for number in range(len(shape.decoder.layers)) for role in "kv"
        ]

    def begin(self, lines: Lines, numbers: Sequence[int], sources: Sequence[Source]) -> None:
        """Encode sources together and let them join the lines that run."""
        inputs, mask = self._sounds(sources) if self.shape.bands else self._texts(sources)
        hidden = np.where(mask, np.float32(0), HIDDEN)[:, None, None, :]
        lines.join(numbers, dict(self._encoder.run({**inputs, "mask": hidden})), hidden)

    def step(self, lines: Lines, tokens: Sequence[int]) -> Array:
        """Return the logits behind the next token of every line, [line, token]."""
        lines.prepared(self._kept, self.shape.heads * self.shape.head_size)
        lengths, places = np.array(lines.lengths), np.arange(lines.places)
        given: dict[str, Array] = {
            "ids": np.array(tokens, np.int64)[:, None],
            "mask": lines.hidden,
            "here": (places == lengths[:, None])[:, :, None],
            "seen": self._seen(lengths, places),
        }
        if "positions" in self.shape.decoder.parts:
            given["position"] = lengths.astype(np.int64)[:, None]
        past = {f"past.{name}": lines.past[name] for name in self._kept}
        found = self._decoder.run({**given, **lines.crossed, **past})
        lines.store({name: found[f"new.{name}"] for name in self._kept})
        return found["logits"]

    def _seen(self, lengths: Array, places: Array) -> Array:
        """Return what is added to the scores of every place, [line, head or 1, 1, place]."""
        hidden = np.where(places <= lengths[:, None], np.float32(0), HIDDEN)[:, None, None, :]
        if "decoder" not in self._near:
            return hidden
        last = len(places) - 1  # a query there has the scores of all distances that matter
        near = near_scores(self._near["decoder"], (1, last + 1), self._buckets, both_ways=False)
        rows = near[0, :, 0][:, np.minimum(last - lengths[:, None] + places, last)]
        return np.asarray(rows.transpose(1, 0, 2)[:, :, None, :] + hidden)

    def _texts(self, sources: Sequence[Source]) -> tuple[dict[str, Array], Array]:
        width = max(map(len, sources))
        ids = np.zeros((len(sources), width), np.int64)
        mask = np.zeros((len(sources), width), bool)
        for row, source in enumerate(sources):
            ids[row, : len(source)], mask[row, : len(source)] = source.tokens, True
        inputs: dict[str, Array] = {"ids": ids}
        if "positions" in self.shape.encoder.parts:
            inputs["positions"] = np.arange(width, dtype=np.int64)
        if "encoder" in self._near:
            table = self._near["encoder"]
            inputs["near"] = near_scores(table, (width, width), self._buckets, both_ways=True)
        return inputs, mask

    def _sounds(self, sources: Sequence[Source]) -> tuple[dict[str, Array], Array]:
        sounds = np.stack([source.sound for source in sources if source.sound is not None])
        return {"sound": sounds}, np.ones((len(sources), self.shape.source), bool)
