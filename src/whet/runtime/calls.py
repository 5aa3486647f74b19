"""What a script may call: functions on values that native code cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from whet.program.script import Call
from whet.runtime import images, sequences, text_numbers, texts

Function = Callable[[Call, list[Any]], list[Any]]

CALLS: Mapping[str, Function] = MappingProxyType(
    {
        "SequenceConstruct": sequences.construct,
        "SequenceEmpty": sequences.empty,
        "SequenceAt": sequences.at,
        "SequenceInsert": sequences.insert,
        "SequenceErase": sequences.erase,
        "SequenceLength": sequences.length,
        "ConcatFromSequence": sequences.concatenate,
        "SplitToSequence": sequences.split,
        "Optional": sequences.optional,
        "OptionalHasElement": sequences.has_element,
        "OptionalGetElement": sequences.get_element,
        "StringConcat": texts.join_pairs,
        "StringNormalizer": texts.normalize,
        "StringSplit": texts.split,
        "RegexFullMatch": texts.match,
        "TfIdfVectorizer": texts.tfidf,
        "TextConstant": texts.constant,
        "TextEqual": texts.equal,
        "TextConcat": texts.concatenate,
        "TextReshape": texts.reshape,
        "TextGather": texts.gather,
        "TextToNumbers": text_numbers.to_numbers,
        "NumbersToText": text_numbers.to_texts,
        "LabelEncoder": text_numbers.labels,
        "ImageDecoder": images.decode,
    }
)
