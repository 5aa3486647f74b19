"""The tokenizer inside a GGUF file: byte-level merges as in GPT-2, or SentencePiece scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.errors import ModelError, UnsupportedError
from whet.llm.checkpoints.tokens import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "\u2581"

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

PATTERNS = {
    "llama-bpe": (_WORDS % 3,),
    "llama-v3": (_WORDS % 3,),
    "llama3": (_WORDS % 3,),
    "tekken": (_TEKKEN,),
    "dbrx": (_WORDS % 3,),
    "smaug-bpe": (_WORDS % 3,),
    "chatglm-bpe": (_WORDS % 3,),
    "glm4": (_WORDS % 3,),
    "qwen2": (_WORDS % 1,),
    "deepseek-r1-qwen": (_WORDS % 1,),
    "gpt-2": (_GPT2,),
    "default": (_GPT2,),
    "olmo": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
}
"""How texts are cut into words, by the name that GGUF has for it."""

WHOLE_WORDS = frozenset(["llama-bpe", "llama-v3", "llama3", "tekken"])
"""Where a word that is a token is never merged from parts, and where texts have a beginning."""

TURN_ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
    ]
)
"""Tokens that end a completion wherever a file has them: not every file says so of each."""


def gguf_tokenizer(facts: Mapping[str, Any], where: str) -> Tokenizer | None:
    """Return the tokenizer that the facts of a file describe, ``None`` if they describe none.

    Raises:
        ModelError: the description is incomplete.
        UnsupportedError: it is of a kind that is not known.
    """
    kind, tokens = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.tokens")
    if kind is None or not tokens:
        return None
    if kind == "gpt2":
        codec = _byte_level(facts, tokens, where)
    elif kind == "llama":
        codec = _sentence_pieces(facts, tokens, where)
    else:
        raise UnsupportedError(f"a tokenizer of kind {kind!r}", where=where)
    _add_special(codec, facts, tokens)
    ids = {f"{n}_token": facts.get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos")}
    names = {name: tokens[k] for name, k in ids.items() if isinstance(k, int) and k < len(tokens)}
    _frame(codec, facts, ids, names)
    template = facts.get("tokenizer.chat_template") or ""
    return Tokenizer(codec, _ends(facts, tokens), template, names)


def _ends(facts: Mapping[str, Any], tokens: list[str]) -> frozenset[int]:
    """Return the tokens that end a completion."""
    named = [facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    kinds = facts.get("tokenizer.ggml.token_type") or []
    control = [k for k, kind in enumerate(kinds[: len(tokens)]) if kind == _CONTROL]
    turns = [k for k in control if tokens[k] in TURN_ENDS]
    return frozenset([*(k for k in named if isinstance(k, int)), *turns])


def _byte_level(facts: Mapping[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Codec

    pre = str(facts.get("tokenizer.ggml.pre", "default"))
    if pre not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise UnsupportedError(
            f"texts cut into words as {pre!r} does", where=where, hint=f"known: {known}"
        )
    merges = [tuple(m.split(" ", 1)) for m in facts.get("tokenizer.ggml.merges") or ()]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    whole = pre in WHOLE_WORDS
    codec = Codec(_model(models.BPE, where, vocab=vocabulary, merges=merges, ignore_merges=whole))
    cuts = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS[pre]]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.pre_tokenizer = pre_tokenizers.Sequence([*cuts, level])
    codec.decoder = decoders.ByteLevel()
    return codec


def _sentence_pieces(facts: Mapping[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Tokenizer as Codec
    from tokenizers import decoders, models, normalizers

    scores = facts.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise ModelError("the tokenizer has not one score for each token", where=where)
    vocabulary = {token: k for k, token in enumerate(tokens)}
    unknown = facts.get("tokenizer.ggml.unknown_token_id")
    model = _model(
        models.BPE,
        where,
        vocab=vocabulary,
        merges=_merges(vocabulary, scores),
        unk_token=tokens[unknown] if isinstance(unknown, int) else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    codec = Codec(model)
    spaces: list[Any] = [normalizers.Replace(" ", _SPACE)]
    if facts.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
    codec.normalizer = normalizers.Sequence(spaces)
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    codec.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1)])
    return codec


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return every way to put a piece together from two, the likeliest piece first."""
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, k in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                rank = (-scores[k], vocabulary[left], vocabulary[right])
                found.append((*rank, (left, right)))
    return [pair for *_, pair in sorted(found)]


def _model(kind: Any, where: str, **arguments: Any) -> Any:
    try:
        return kind(**arguments)
    except Exception as error:  # the package raises plain exceptions
        raise ModelError(f"the tokenizer is malformed: {error}"[:300], where=where) from error


def _add_special(codec: Any, facts: Mapping[str, Any], tokens: list[str]) -> None:
    """Have the codec find whole tokens in texts; those of control are left out of what is read."""
    from tokenizers import AddedToken

    kinds = facts.get("tokenizer.ggml.token_type") or []
    for wanted, add in ((_CONTROL, codec.add_special_tokens), (_USER_DEFINED, codec.add_tokens)):
        special = wanted == _CONTROL
        found = [t for t, kind in zip(tokens, kinds, strict=False) if kind == wanted and t]
        add([AddedToken(t, special=special, normalized=False) for t in found])


def _frame(
    codec: Any, facts: Mapping[str, Any], ids: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Have texts begin and end with the tokens that the file says."""
    from tokenizers import processors

    pre = facts.get("tokenizer.ggml.pre")
    begins = facts.get("tokenizer.ggml.model") == "llama" or pre in WHOLE_WORDS
    wanted = {
        "bos_token": facts.get("tokenizer.ggml.add_bos_token", begins),
        "eos_token": facts.get("tokenizer.ggml.add_eos_token", False),
    }
    used = {name: names[name] for name, add in wanted.items() if add and name in names}
    if used:
        frame = [used.get("bos_token"), "$A", used.get("eos_token")]
        codec.post_processor = processors.TemplateProcessing(
            single=[part for part in frame if part],
            special_tokens=[(token, ids[name]) for name, token in used.items()],
        )
