"""Preparation of features: scaling, imputing, encoding, selecting."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Array, Foreign, Translation
from whet.words import counted


def scaler(t: Translation) -> ir.Value:
    """Scaler: ``(x - offset) * scale``, float32."""
    x = t.cast(t.input(0), ir.DataType.FLOAT)
    offset, scale = (np.array(t.take(n, ()), np.float32) for n in ("offset", "scale"))
    y = t.op("Sub", x, offset) if offset.size else x
    return t.op("Mul", y, scale) if scale.size else y


def binarizer(t: Translation) -> ir.Value:
    """Binarizer: 1 above the threshold, else 0."""
    x = t.input(0)
    above = t.op("Greater", x, t.scalar(t.take("threshold", 0.0), x))
    return t.cast(above, t.dtype(x))


def normalizer(t: Translation) -> ir.Value:
    """Normalizer: rows divided by their largest element, sum of magnitudes or length."""
    x, norm = t.cast(t.input(0), ir.DataType.FLOAT), t.take("norm", "MAX")
    axis = np.array([-1], np.int64)
    kinds = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}
    if norm not in kinds:
        raise t.refuse(f"norm={norm} is not known")
    size = t.op(kinds[norm], x, axis)
    empty = t.op("Equal", size, t.scalar(0.0, size))
    return t.op("Div", x, t.op("Where", empty, t.scalar(1.0, size), size))


def imputer(t: Translation) -> ir.Value:
    """Imputer: one value of each column, or NaN, is replaced."""
    x = t.input(0)
    whole, real = t.take("imputed_value_int64s", ()), t.take("imputed_value_floats", ())
    gone = (t.take("replaced_value_int64", 0), t.take("replaced_value_float", 0.0))
    integer = t.dtype(x).is_integer()
    values, replaced = (whole, gone[0]) if integer else (real, gone[1])
    if not values:
        raise t.refuse(f"there are no values to impute in {t.dtype(x).name}")
    missing = np.isnan(replaced) if not integer else False
    found = t.op("IsNaN", x) if missing else t.op("Equal", x, t.scalar(replaced, x))
    return t.op("Where", found, np.array(values, t.dtype(x).numpy()), x)


def array_feature_extractor(t: Translation) -> ir.Value:
    """ArrayFeatureExtractor: columns by number; a vector becomes a matrix of one row."""
    x = t.input(0)
    places = t.op("Reshape", t.input(1), np.array([-1], np.int64))
    y = t.op("Gather", x, places, axis=-1)
    return t.unsqueeze(y, 0) if t.rank(x) == 1 else y


def feature_vectorizer(t: Translation) -> ir.Value:
    """FeatureVectorizer: columns side by side, each input cut or filled to its width."""
    widths = t.take("inputdimensions", ())
    if len(widths) != len(t.node.inputs):
        raise t.refuse(
            f"{counted(len(widths), 'width')} for {counted(len(t.node.inputs), 'input')}"
        )
    parts = [_of_width(t, t.input(k), width) for k, width in enumerate(widths)]
    return t.op("Concat", *parts, axis=1)


def _of_width(t: Translation, x: ir.Value, width: int) -> ir.Value:
    wide = t.cast(x, ir.DataType.FLOAT)
    if t.rank(wide) == 1:
        wide = t.unsqueeze(wide, 1)
    own = t.fixed(wide, 1)
    if own > width:
        return t.slice(wide, 1, 0, width)
    if own < width:
        return t.op("Pad", wide, np.array([0, 0, 0, width - own], np.int64))
    return wide


def one_hot_encoder(t: Translation) -> ir.Value:
    """OneHotEncoder: a new last dim with 1 at the category's place."""
    categories, strings = t.take("cats_int64s", ()), t.take("cats_strings", ())
    if strings or not categories:
        raise t.refuse("categories that are strings are not numeric")
    if not t.take("zeros", 1):
        raise t.refuse("zeros=0, an error for unknown categories, is not supported")
    x = t.cast(t.input(0), ir.DataType.INT64)
    hit = t.op("Equal", t.unsqueeze(x, -1), np.array(categories, np.int64))
    return t.cast(hit, ir.DataType.FLOAT)


def label_encoder(t: Translation) -> ir.Value:
    """LabelEncoder: a table from numbers to numbers; with texts a step of the script."""
    keys, values, default = _mapping(t)
    x = t.input(0)
    if object in (keys.dtype, values.dtype):
        return _text_labels(t, keys, values, default)
    if t.dtype(x).numpy() != keys.dtype:
        raise t.refuse(f"keys of {keys.dtype} for an input of {t.dtype(x).name}")
    wide = t.unsqueeze(x, -1)
    hit = t.op("Equal", wide, keys)
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        hit = t.op("Or", hit, t.op("And", t.op("IsNaN", wide), np.isnan(keys)))
    number = t.cast(hit, ir.DataType.INT32)
    place = t.op("ArgMax", number, axis=-1, keepdims=0)
    known = t.cast(
        t.op("ReduceMax", number, np.array([-1], np.int64), keepdims=0), ir.DataType.BOOL
    )
    return t.op("Where", known, t.op("Gather", values, place), default)


def _text_labels(t: Translation, keys: Array, values: Array, default: Array) -> ir.Value:
    if (keys.dtype == object) != (t.dtype(t.input(0)) == ir.DataType.STRING):
        raise t.refuse(f"keys of another type than the input, {t.dtype(t.input(0)).name}")
    texts = values.dtype == object
    kind = ir.DataType.STRING if texts else ir.DataType.from_numpy(values.dtype)
    return t.step(
        "LabelEncoder", t.input(0), kind, keys=keys.tolist(), values=values.tolist(),
        default=default.item(), result="string" if texts else values.dtype.name,
    )  # fmt: skip


def _mapping(t: Translation) -> tuple[Array, Array, Array]:
    """Return keys, values and the value of unknown keys."""
    found: dict[str, Array] = {}
    for role in ("keys", "values"):
        for suffix, kind in _KINDS:
            given = t.take(f"{role}_{suffix}", ())
            if given:
                found[role] = np.array(given, kind)
        tensor = t.take(f"{role}_tensor", None)
        if tensor is not None:
            found[role] = _elements(tensor)
    if set(found) != {"keys", "values"} or any(a.dtype.kind not in "fiO" for a in found.values()):
        raise t.refuse("there are no keys or values, or they are neither numbers nor texts")
    values = found["values"]
    if found["keys"].size != values.size:
        raise t.refuse(f"{counted(found['keys'].size, 'key')} for {counted(values.size, 'value')}")
    usual = {
        "i": t.take("default_int64", -1),
        "f": t.take("default_float", -0.0),
        "O": t.take("default_string", "_Unused"),
    }[values.dtype.kind]
    tensor = t.take("default_tensor", None)
    default = np.asarray(usual, values.dtype) if tensor is None else _elements(tensor).reshape(())
    return found["keys"], values, default


_KINDS: tuple[tuple[str, Any], ...] = (
    ("int64s", np.int64), ("floats", np.float32), ("strings", object),
)  # fmt: skip


def _elements(tensor: ir.TensorProtocol) -> Array:
    """Return the elements of a tensor, texts as such."""
    array = np.asarray(tensor.numpy()).reshape(-1)
    if tensor.dtype != ir.DataType.STRING:
        return array
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in array], object)


OPS = (
    Foreign("Scaler", scaler),
    Foreign("Binarizer", binarizer),
    Foreign("Normalizer", normalizer),
    Foreign("Imputer", imputer),
    Foreign("ArrayFeatureExtractor", array_feature_extractor),
    Foreign("FeatureVectorizer", feature_vectorizer),
    Foreign("OneHotEncoder", one_hot_encoder),
    Foreign(
        "LabelEncoder",
        label_encoder,
        ignored=("default_string", "default_int64", "default_float"),
    ),
)
