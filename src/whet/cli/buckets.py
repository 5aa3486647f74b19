"""Batch and image sizes that get a program of their own, as shapes of a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import whet
from whet.program.records import TensorSpec
from whet.words import counted

Shape = tuple[int | str, ...]
Buckets = dict[str, Shape | list[Shape]]

IMAGE_RANK = 4


def bucket_shapes(
    inputs: Sequence[TensorSpec],
    given: Mapping[str, Shape] | None,
    batches: Sequence[int],
    images: Sequence[tuple[int, int]],
) -> Buckets | None:
    """Return shapes with one bucket for each batch size, image size, or pair of both.

    The batch is the first dimension of every input, height and width are the last two of inputs of
    rank 4; only those that the model leaves open change.

    Raises:
        OptionError: no input has such an open dimension.
    """
    fixed: Buckets = dict(given or {})
    if not batches and not images:
        return fixed or None
    changed = False
    for spec in inputs:
        own = tuple((given or {}).get(spec.name) or _named(spec))
        shapes: list[Shape] = []
        for batch, image in product(batches or (None,), images or (None,)):
            shape = list(own)
            if batch is not None and shape:
                shape[0] = _filled(shape[0], batch)
            if image is not None and len(shape) == IMAGE_RANK:
                shape[2:] = [_filled(d, n) for d, n in zip(shape[2:], image, strict=True)]
            shapes.append(tuple(shape))
        changed = changed or any(shape != own for shape in shapes)
        fixed[spec.name] = shapes
    if not changed:
        raise whet.OptionError(
            "the model leaves no batch or image size open",
            where="--dynamic-batch, --dynamic-image",
            hint="export it with dynamic axes",
        )
    return fixed


def profile_shapes(
    inputs: Sequence[TensorSpec],
    given: Mapping[str, Shape] | None,
    profiles: Sequence[tuple[int, ...]],
) -> Buckets:
    """Return shapes with one bucket for each profile: a value for every open dimension.

    Dimensions are counted in the order of inputs and their axes, each where it stands.

    Raises:
        OptionError: a profile has more or fewer values than there are open dimensions.
    """
    own = {spec.name: tuple((given or {}).get(spec.name) or _named(spec)) for spec in inputs}
    places = [(name, k) for name, s in own.items() for k, d in enumerate(s) if isinstance(d, str)]
    shapes: Buckets = {name: [] for name in own}
    for profile in profiles:
        if len(profile) != len(places):
            listed = ", ".join(f"{name}[{axis}]" for name, axis in places) or "none"
            raise whet.OptionError(
                f"{','.join(map(str, profile))} has {counted(len(profile), 'value')} for "
                f"{counted(len(places), 'open dimension')}",
                where="--dynamic-dims",
                hint=f"give one for each of: {listed}",
            )
        values = dict(zip(places, profile, strict=True))
        for name, shape in own.items():
            bucket = shapes[name]
            assert isinstance(bucket, list)
            bucket.append(tuple(values.get((name, k), d) for k, d in enumerate(shape)))
    return shapes


def _named(spec: TensorSpec) -> Shape:
    """Return a shape in which open dimensions without a name have the one that loading gives."""
    return tuple(f"{spec.name}_{k}" if d == "?" else d for k, d in enumerate(spec.shape))


def _filled(dim: int | str, value: int) -> int | str:
    return value if isinstance(dim, str) else dim
