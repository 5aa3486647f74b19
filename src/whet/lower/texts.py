"""Operators on texts, which no native code can hold: the script calls functions of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from whet.dtypes import DTYPES
from whet.index import Poly, as_poly
from whet.lower.outline import Control, Form, Held, Item
from whet.lower.scope import Scope, Site
from whet.lower.sequences import call
from whet.program.script import Setting

Extents = tuple[Poly | None, ...]


def is_text(item: Item | None) -> bool:
    """Tell whether a value is an array of texts."""
    return isinstance(item, Held) and item.kind == "text"


def _shape(site: Site, position: int) -> Extents:
    item = site.optional(position)
    form = item.element if isinstance(item, Held) else None
    if isinstance(form, Form) and form.shape is not None:
        return form.shape
    if item is None or isinstance(item, Held):
        raise site.refusal("of texts of unknown rank")
    return item.shape


def text(site: Site, shape: Extents, output: int = 0) -> Held:
    """Return the description of an array of texts."""
    names = site.names()
    return Held(names[output], "text", Form("string", shape))


def text_constant(scope: Scope, name: str, array: np.ndarray) -> Held:
    """Return a constant array of texts, which the script makes at the start of every run."""
    shape = tuple(as_poly(n) for n in array.shape)
    held = Held(name, "text", Form("string", shape))
    flat = [t.decode() if isinstance(t, bytes) else str(t) for t in array.reshape(-1).tolist()]
    settings: tuple[tuple[str, Setting], ...] = (("shape", array.shape), ("texts", tuple(flat)))
    scope.events.append(
        Control("call", (), (held,), name, function="TextConstant", settings=settings)
    )
    return held


def _open(shape: Extents) -> Extents:
    """Return a shape whose extents are known only if they are fixed."""
    return tuple(p if p is not None and p.constant is not None else None for p in shape)


def _broadcast(one: Extents, other: Extents) -> Extents:
    rank = max(len(one), len(other))
    return tuple(None for _ in range(rank))


def _settings(site: Site) -> tuple[tuple[str, Setting], ...]:
    """Return the attributes of the node as they are."""
    found: list[tuple[str, Setting]] = []
    for name, attribute in sorted(site.node.attributes.items()):
        value = attribute.value
        found.append((name, tuple(value) if isinstance(value, list | tuple) else value))
    return tuple(found)


def _concat(site: Site) -> Sequence[Item]:
    shape = _broadcast(_shape(site, 0), _shape(site, 1))
    return call(site, [text(site, shape)])


def _normalize(site: Site) -> Sequence[Item]:
    shape = tuple(None for _ in _shape(site, 0))
    return call(site, [text(site, shape)], _settings(site))


def _split(site: Site) -> Sequence[Item]:
    shape = _open(_shape(site, 0))
    return call(site, [text(site, (*shape, None)), Form("int64", shape)], _settings(site))


def _match(site: Site) -> Sequence[Item]:
    return call(site, [Form("bool", _open(_shape(site, 0)))], _settings(site))


def _tfidf(site: Site) -> Sequence[Item]:
    shape = _open(_shape(site, 0))
    return call(site, [Form("float32", (*shape[:-1], None))], _settings(site))


def _equal(site: Site) -> Sequence[Item]:
    shape = _broadcast(_shape(site, 0), _shape(site, 1))
    return call(site, [Form("bool", shape)], function="TextEqual")


def _join(site: Site) -> Sequence[Item]:
    shape = tuple(None for _ in _shape(site, 0))
    return call(site, [text(site, shape)], _settings(site), "TextConcat")


def gives_texts(node: ir.Node) -> bool:
    """Tell whether a node converts to texts."""
    if node.op_type != "Cast" or node.domain:
        return False
    return bool(node.attributes["to"].as_int() == ir.DataType.STRING)


def _cast(site: Site) -> Sequence[Item]:
    item = site.optional(0)
    if item is None:
        raise site.refusal("of nothing")
    if gives_texts(site.node):
        if isinstance(item, Held):
            return [item]
        return call(site, [text(site, item.shape)], function="NumbersToText")
    code = int(site.node.attributes["to"].as_int())
    dtype = str(np.dtype(ir.DataType(code).numpy()).name)
    if dtype not in DTYPES:
        raise site.refusal(f"of texts to {dtype}")
    form = Form(dtype, _open(_shape(site, 0)))
    return call(site, [form], (("to", dtype),), "TextToNumbers")


def _labels(site: Site) -> Sequence[Item]:
    settings = _settings(site)
    result = str(dict(settings)["result"])
    item = site.optional(0)
    shape = _shape(site, 0) if isinstance(item, Held) else site.tensor(0).shape
    form = text(site, shape) if result == "string" else Form(result, shape)
    return call(site, [form], settings)


def _reshape(site: Site) -> Sequence[Item]:
    target = site.tensor(1)
    rank = target.size.constant
    if target.rank != 1 or rank is None:
        raise site.refusal("of texts to an unknown rank")
    return call(site, [text(site, (None,) * rank)], _settings(site), "TextReshape")


def _gather(site: Site) -> Sequence[Item]:
    shape, indices = _shape(site, 0), _shape(site, 1)
    rank = len(shape) - 1 + len(indices)
    return call(site, [text(site, (None,) * rank)], _settings(site), "TextGather")


Lowering = Callable[[Site], Sequence[Item]]

TEXTS: dict[str, Lowering] = {
    "StringConcat": _concat,
    "StringNormalizer": _normalize,
    "StringSplit": _split,
    "RegexFullMatch": _match,
    "TfIdfVectorizer": _tfidf,
    "LabelEncoder": _labels,
}
"""Operators that are about texts, by name."""

TEXT_FORMS: dict[str, Lowering] = {
    "Cast": _cast,
    "Equal": _equal,
    "Concat": _join,
    "Reshape": _reshape,
    "Gather": _gather,
}
"""Operators that texts may go through besides numbers, by name."""
