"""Encoders against what ``transformers`` computed in float64; pooling, batches and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, ModelError, UnsupportedError
from whet.llm.checkpoints.pooling import Pooled, pooled_of
from whet.llm.encoder import Encoder
from whet.options import Options
from whet.tests.golden_models import DATA, Golden, write_golden

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "encoder_goldens.json").read_text())[name]
    return found


def checkpoint(name: str, folder: Path) -> Path:
    known = facts(name)
    none = np.zeros(0)
    return write_golden(folder, Golden(known["config"], known["shapes"], known["seed"], none, none))


@pytest.mark.parametrize("name", ["bert", "xlmroberta"])
def test_vectors_and_scores(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    texts = facts(name)["texts"]
    with np.load(DATA / "encoder_goldens.npz") as arrays:
        wanted = {key: arrays[f"{name}.{key}"] for key in ("mean", "cls", "scores", "pairs")}
    encoder = Encoder(folder, options=Options(threads=2))
    assert np.abs(encoder.embed(texts) - wanted["mean"]).max() < 1e-5
    small = Encoder(folder, options=Options(threads=2), batch_tokens=24)  # texts come in steps
    assert np.abs(small.embed(texts) - wanted["mean"]).max() < 1e-5
    pairs = list(zip(texts, facts(name)["kinds"], strict=True))
    plain = [(text, [0] * len(text)) for text in texts]
    for given, scores in ((plain, wanted["scores"]), (pairs, wanted["pairs"])):
        assert np.abs(encoder.scores(given) - 1 / (1 + np.exp(-scores[:, 0]))).max() < 1e-6
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    config = json.loads((folder / "config.json").read_text())
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "config.json").write_text(json.dumps(config))
    other = Encoder(folder, options=Options(threads=2))
    vectors = other.embed(texts)
    length = np.linalg.norm(wanted["cls"], axis=-1, keepdims=True)
    assert np.abs(vectors - wanted["cls"] / length).max() < 1e-5
    error = np.abs(other.scores(pairs) - wanted["pairs"][:, 0]).max()
    assert error < 1e-5 * np.abs(wanted["pairs"]).max()
    bad(encoder)


def bad(encoder: Encoder) -> None:
    """Refuse texts that do not fit."""
    for text, reason in (([], "0 tokens"), ([5] * 200, "200 tokens"), ([999], "token 999")):
        with pytest.raises(InputError, match=reason):
            encoder.embed([text])
    with pytest.raises(InputError, match="tokenizer"):
        encoder.embed(["text"])
    assert encoder.embed([]).shape == (0, 64)


def test_a_roberta_tells_no_pairs_apart(tmp_path: Path) -> None:
    """It has one kind of token, though tokenizers may say that a second text is of another."""
    tokenizers = pytest.importorskip("tokenizers", reason="pairs are made by tokenizers")
    folder = checkpoint("xlmroberta", tmp_path)
    names = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghij"]
    codec = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({n: k for k, n in enumerate(names)}, unk_token="<unk>")
    )
    codec.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    codec.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s>:1 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    codec.save(str(folder / "tokenizer.json"))
    encoder = Encoder(folder, options=Options(threads=2))
    tokens = [0, 4, 5, 2, 2, 6, 2]
    assert encoder.pair("a b", "c") == (tokens, [0] * 7)
    assert encoder.rerank("a b", ["c"]) == encoder.scores([(tokens, [0] * 7)])
    assert encoder.context == 64  # 66 positions, of which the first two are for padding


def test_modules_that_are_not_known_are_named(tmp_path: Path) -> None:
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    for modules, facts, text in (
        (["Transformer", "Pooling", "Dense"], {}, "Dense"),
        (["Transformer", "Pooling"], {"pooling_mode_mean_sqrt_len_tokens": True}, "sqrt_len"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "cls_token and pooling_mode_max",
        ),
    ):
        kinds = [{"type": f"sentence_transformers.models.{name}"} for name in modules]
        (tmp_path / "modules.json").write_text(json.dumps(kinds))
        pooling.write_text(json.dumps(facts))
        with pytest.raises(UnsupportedError, match=text):
            pooled_of(tmp_path, Pooled())
    (tmp_path / "modules.json").write_text('[{"kind": 3}]')
    with pytest.raises(ModelError, match="modules"):
        pooled_of(tmp_path, Pooled())


def test_reranking_puts_pairs_together(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="pairs are made by tokenizers")
    folder = checkpoint("bert", tmp_path)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
    codec = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({n: k for k, n in enumerate(names)}, unk_token="[UNK]")
    )
    codec.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    codec.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    codec.save(str(folder / "tokenizer.json"))
    encoder = Encoder(folder, options=Options(threads=2))
    assert encoder.pair("a b", "c") == ([2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 1, 1])
    together = encoder.rerank("a b", ["c", "d e f", "g"])
    alone = [encoder.rerank("a b", [text])[0] for text in ("c", "d e f", "g")]
    assert np.abs(together - np.array(alone)).max() < 1e-5 and len(set(together.tolist())) == 3


def test_damaged_checkpoints_are_errors(tmp_path: Path) -> None:
    folder = checkpoint("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, kind, text in (
        ({"hidden_size": 128}, ModelError, "has shape"),
        ({"model_type": "birt"}, UnsupportedError, "bert"),
        ({"hidden_act": "sin"}, UnsupportedError, "sin"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(kind, match=text):
            Encoder(folder)
