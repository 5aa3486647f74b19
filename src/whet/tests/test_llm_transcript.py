"""Texts of tokens that come one at a time: as if all had been decoded together, at less cost."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest

from whet.llm.engine.transcript import WINDOW, Transcript

tokenizers = pytest.importorskip("tokenizers", reason="texts become tokens")

TEXT = inspect.getsource(inspect)[:6000] + " Grüße, 世界 🙂👍🏽 naïve — ¿qué? " * 40


def byte_codec() -> Any:
    """Return byte-level tokens, of which a letter may need several."""
    codec = tokenizers.Tokenizer(tokenizers.models.BPE())
    codec.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=alphabet
    )
    codec.train_from_iterator([TEXT[:6000]], trainer)
    return codec


def piece_codec() -> Any:
    """Return SentencePiece-like tokens: a space begins a word, unknown letters are bytes."""
    words = sorted({"▁" + w for w in TEXT[:6000].split(" ")} | set(TEXT[:6000]) | {"▁"})
    names = ["<unk>", *(f"<0x{k:02X}>" for k in range(256)), *words]
    vocabulary = {name: k for k, name in enumerate(dict.fromkeys(names))}
    codec = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
    )
    codec.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    decoders = tokenizers.decoders
    codec.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return codec


@pytest.mark.parametrize("codec", [byte_codec(), piece_codec()], ids=["bytes", "pieces"])
def test_as_if_decoded_together(codec: Any) -> None:
    ids = codec.encode(TEXT).ids
    assert codec.decode(ids) == TEXT
    asked: list[int] = []

    def decode(tokens: Sequence[int]) -> str:
        asked.append(len(tokens))
        return str(codec.decode(list(tokens)))

    transcript, tokens = Transcript(), list[int]()
    for token in ids:
        tokens.append(token)
        text = transcript.text(tokens, decode)
        if len(tokens) % 37 == 0 or len(tokens) == len(ids):
            assert text == codec.decode(tokens)
    assert max(asked) <= 2 * WINDOW
    assert sum(asked) < 1.5 * WINDOW * len(ids)


def test_several_tokens_at_a_time() -> None:
    codec = byte_codec()
    ids, transcript = codec.encode(TEXT).ids, Transcript()
    for end in (1, 5, 300, 301, 999, len(ids)):
        assert transcript.text(ids[:end], codec.decode) == codec.decode(ids[:end])


def test_texts_that_cannot_be_cut_stay_whole() -> None:
    def decode(tokens: Sequence[int]) -> str:
        return "".join(map(str, reversed(tokens)))  # every token changes the beginning

    transcript, tokens = Transcript(), list(range(5 * WINDOW))
    for end in range(1, len(tokens)):
        assert transcript.text(tokens[:end], decode) == decode(tokens[:end])
