"""The configuration of a checkpoint, read with errors that name the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from whet.errors import ModelError, UnsupportedError, nearest
from whet.llm.architecture import Rope


@dataclass(frozen=True, slots=True)
class Config:
    """Values by key, as ``config.json`` has them; ``where`` is named in errors."""

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            ModelError: it is missing without a default, or no positive integer.
        """
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.error(f"{key} is {value!r}, needs a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number.

        Raises:
            ModelError: it is something else.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float):
            raise self.error(f"{key} is {value!r}, needs a number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """Return a text."""
        value = self.values.get(key)
        return value if isinstance(value, str) else default

    def family(self, known: Collection[str]) -> str:
        """Return the model's family, one of the known.

        Raises:
            UnsupportedError: it is another one.
        """
        name = self.text("model_type", "")
        if name not in known:
            raise UnsupportedError(
                f"the model is of family {name!r}", where=self.where, hint=nearest(name, known)
            )
        return name

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return a switch."""
        value = self.values.get(key)
        return default if value is None else bool(value)

    def nested(self, key: str) -> Config:
        """Return the values below a key; none where it is missing."""
        value = self.values.get(key)
        return Config(value if isinstance(value, Mapping) else {}, f"{self.where}, {key}")

    def layer_types(self, count: int) -> list[str] | None:
        """Return the kind of each layer, if the file says it."""
        found = self.values.get("layer_types")
        if found is None:
            return None
        if not isinstance(found, list) or len(found) < count:
            raise self.error(f"layer_types does not name {count} layers")
        return [str(kind) for kind in found[:count]]

    def error(self, message: str) -> ModelError:
        """Return an error that names the file."""
        return ModelError(message, where=self.where, hint="check config.json of the checkpoint")


def rope_of(config: Config, size: int, *, interleaved: bool = False, kind: str = "") -> Rope:
    """Return the rotary positions that a configuration asks for.

    Args:
        config: the configuration.
        size: elements of a head.
        interleaved: whether neighbours are turned together.
        kind: of layers, where each has positions of its own.

    Raises:
        UnsupportedError: positions are scaled in a way that is not known.
    """
    given = config.nested("rope_parameters")
    if kind and kind in given.values:
        given = given.nested(kind)
    scaling = config.nested("rope_scaling") if not given.values else given
    theta = given.number("rope_theta", config.number("rope_theta", 10000.0))
    partial = given.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    name = scaling.text("rope_type", scaling.text("type", "default"))
    factor = scaling.number("factor", 1.0)
    divisors = tuple(float(d) for d in config.values.get("rope_divisors") or ())
    rope = Rope(theta, int(size * partial), interleaved, divisors=divisors)
    if len(divisors) not in (0, rope.size // 2):
        raise config.error(f"{len(divisors)} divisors for {rope.size // 2} frequencies")
    if name in ("default", "mrope"):
        return replace(rope, sections=_sections(scaling, rope.size))
    if name == "linear":
        return replace(rope, factor=factor)
    if name == "llama3":
        bands = (
            scaling.number("low_freq_factor", 1.0),
            scaling.number("high_freq_factor", 4.0),
            scaling.integer("original_max_position_embeddings", 8192),
        )
        return replace(rope, factor=factor, llama3=bands)
    raise UnsupportedError(
        f"rotary positions of type {name!r}",
        where=config.where,
        hint="default, linear and llama3 are known",
    )


def _sections(scaling: Config, size: int) -> tuple[int, ...]:
    """Return how many frequencies turn by each of three positions, if there are three."""
    found = scaling.values.get("mrope_section")
    if found is None:
        return ()
    whole = isinstance(found, list) and len(found) == 3 and all(isinstance(n, int) for n in found)
    if not whole or sum(found) != size // 2 or min(found) < 0:
        raise scaling.error(f"mrope_section is {found!r}, needs three that make {size // 2}")
    return tuple(found)
