"""The configuration of a checkpoint, read with errors that name the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from whet.errors import ModelError, UnsupportedError, nearest


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
