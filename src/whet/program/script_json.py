"""Scripts as canonical JSON, as they stand in a manifest."""

from __future__ import annotations

from typing import Any

import msgspec

from whet.errors import ArtifactError
from whet.index import Poly
from whet.program.polynomials import from_json, to_json
from whet.program.script import Script


def encode_script(script: Script) -> bytes:
    """Return the one encoding that a script has."""
    return msgspec.json.encode(script, order="deterministic", enc_hook=_encode_poly)


def decode_script(data: bytes) -> Script:
    """Read a script; unknown, missing, repeated and mistyped fields are errors.

    Raises:
        ArtifactError: the bytes are not what ``encode_script`` writes.
    """
    try:
        script = msgspec.json.decode(data, type=Script, dec_hook=_decode_poly)
    except (msgspec.DecodeError, RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(f"damaged manifest: {error}") from error
    if encode_script(script) != data:
        raise ArtifactError("damaged manifest: its script is not in canonical form")
    return script


def _encode_poly(value: object) -> Any:
    assert isinstance(value, Poly), "a script holds polynomials and plain values"
    return to_json(value)


def _decode_poly(kind: type, value: object) -> Poly:
    assert kind is Poly, "a script holds polynomials and plain values"
    return from_json(value)
