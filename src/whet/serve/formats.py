"""The forms that a text may be asked to have: those of the OpenAI API, and those of vLLM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from whet.errors import InputError
from whet.llm.engine.structured import Constraint


def constraint_of(
    response_format: Mapping[str, Any] | None, guided: Mapping[str, Any]
) -> Constraint | None:
    """Return what a text has to look like, ``None`` for anything.

    Args:
        response_format: as the OpenAI API has it.
        guided: a schema, an expression, a grammar or a list of texts by ``json_schema``, ``regex``,
            ``grammar`` and ``choice``, as vLLM has them; ``None`` for none.

    Raises:
        InputError: the format is not known, or more than one is given.
    """
    found = [_guided(kind, given) for kind, given in guided.items() if given is not None]
    shape = response_format or {"type": "text"}
    if shape.get("type") == "json_object":
        found.append(Constraint("json"))
    elif shape.get("type") == "json_schema":
        found.append(Constraint("json_schema", _schema(shape)))
    elif shape.get("type") != "text":
        raise InputError(
            f"response_format {shape.get('type')!r} is not known",
            where="body",
            hint="text, json_object and json_schema are",
        )
    if len(found) > 1:
        raise InputError("the text is to have several formats", where="body", hint="give one")
    return found[0] if found else None


def _guided(kind: str, given: Any) -> Constraint:
    if kind == "choice":
        if not given:
            raise InputError("guided_choice is empty", where="body", hint="give texts to choose of")
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in given)
        return Constraint("grammar", f"start: {texts}")
    if kind == "json_schema":
        return Constraint("json_schema", given if isinstance(given, str) else json.dumps(given))
    return Constraint("regex" if kind == "regex" else "grammar", given)


def _schema(shape: Mapping[str, Any]) -> str:
    inner = shape.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise InputError("json_schema.schema is missing", where="body", hint="give a JSON schema")
    return json.dumps(schema)
