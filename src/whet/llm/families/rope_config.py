"""The rotary positions that a configuration asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from whet.errors import UnsupportedError
from whet.llm.architecture import Rope
from whet.llm.checkpoints.config import Config


def rope_of(config: Config, size: int, *, interleaved: bool = False, kind: str = "") -> Rope:
    """Return the rotary positions that a configuration asks for.

    Args:
        config: the configuration.
        size: elements of a head.
        interleaved: whether neighbours are turned together.
        kind: of layers, where each has positions of its own.

    Raises:
        UnsupportedError: positions are scaled in a way that is not known.
        ModelError: a value means nothing.
    """
    given = config.nested("rope_parameters")
    if kind and kind in given.values:
        given = given.nested(kind)
    scaling = config.nested("rope_scaling") if not given.values else given
    theta = given.number("rope_theta", config.number("rope_theta", 10000.0))
    partial = given.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    if not 0 < theta < math.inf or not 0 < partial <= 1:
        raise config.error(f"rope_theta is {theta}, partial_rotary_factor {partial}")
    name = scaling.text("rope_type", scaling.text("type", "default"))
    divisors = tuple(float(d) for d in config.values.get("rope_divisors") or ())
    rope = Rope(theta, int(size * partial), interleaved, divisors=divisors)
    if len(divisors) not in (0, rope.size // 2):
        raise config.error(f"{len(divisors)} divisors for {rope.size // 2} frequencies")
    if name in ("default", "mrope"):
        return replace(rope, sections=_sections(scaling, rope.size))
    if name not in _SCALED:
        raise UnsupportedError(
            f"rotary positions of type {name!r}",
            where=config.where,
            hint=f"default, mrope, {', '.join(_SCALED)} are known",
        )
    return _SCALED[name](rope, scaling, config)


def _linear(rope: Rope, scaling: Config, config: Config) -> Rope:
    return replace(rope, factor=scaling.number("factor", 1.0))


def _llama3(rope: Rope, scaling: Config, config: Config) -> Rope:
    bands = (
        scaling.number("low_freq_factor", 1.0),
        scaling.number("high_freq_factor", 4.0),
        scaling.integer("original_max_position_embeddings", 8192),
    )
    return replace(rope, factor=scaling.number("factor", 1.0), llama3=bands)


def _yarn(rope: Rope, scaling: Config, config: Config) -> Rope:
    """Return positions stretched as YaRN does (Peng et al., 2023).

    Frequencies that turn often within the original context stay, those that turn less than once
    are divided by the factor, and those between are mixed.
    """
    original = _original(scaling, config)
    context = config.integer("max_position_embeddings", original)
    factor = scaling.number("factor", context / original)
    ends = []
    for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        turns = (scaling.number(name, default) or default) * 2 * math.pi
        ends.append(rope.size * math.log(original / turns) / (2 * math.log(rope.theta)))
    if scaling.flag("truncate", default=True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], rope.size - 1)
    width = high - low if high != low else 0.001
    ramp = np.clip((np.arange(rope.size // 2) - low) / width, 0.0, 1.0)
    divisors = tuple((1 / (ramp / factor + 1 - ramp)).tolist())
    return replace(rope, divisors=divisors, magnitude=_yarn_magnitude(scaling, factor))


def _yarn_magnitude(scaling: Config, factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = scaling.number("mscale", 0.0), scaling.number("mscale_all_dim", 0.0)
    usual = scale(above) / scale(below) if above and below else scale(1.0)
    return scaling.number("attention_factor", usual)


def _longrope(rope: Rope, scaling: Config, config: Config) -> Rope:
    """Return positions with divisors of their own for contexts beyond the original one."""
    original = _original(scaling, config)
    factor = scaling.number("factor", config.integer("max_position_embeddings") / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (_factors(scaling, f"{name}_factor", rope) for name in ("short", "long"))
    magnitude = scaling.number("attention_factor", usual)
    return replace(rope, divisors=short, long=(original, long), magnitude=magnitude)


def _original(scaling: Config, config: Config) -> int:
    """Return the context that the model was first trained for."""
    key = "original_max_position_embeddings"
    given = config.values.get(key, config.values.get("max_position_embeddings"))
    return scaling.integer(key, given if isinstance(given, int) else None)


def _factors(scaling: Config, key: str, rope: Rope) -> tuple[float, ...]:
    found = scaling.values.get(key)
    numbers = isinstance(found, list) and all(isinstance(n, int | float) and n > 0 for n in found)
    if not numbers or len(found or ()) != rope.size // 2:
        raise scaling.error(f"{key} is no list of {rope.size // 2} numbers")
    return tuple(float(n) for n in found or ())


_SCALED: Mapping[str, Callable[[Rope, Config, Config], Rope]] = MappingProxyType(
    {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope, "su": _longrope}
)
"""Kinds of scaling; ``su`` is what the first Phi-3 called ``longrope``."""


def _sections(scaling: Config, size: int) -> tuple[int, ...]:
    """Return how many frequencies turn by each of three positions, if there are three."""
    found = scaling.values.get("mrope_section")
    if found is None:
        return ()
    whole = isinstance(found, list) and len(found) == 3 and all(isinstance(n, int) for n in found)
    if not whole or sum(found) != size // 2 or min(found) < 0:
        raise scaling.error(f"mrope_section is {found!r}, needs three that make {size // 2}")
    return tuple(found)
