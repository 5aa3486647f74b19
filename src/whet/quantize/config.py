"""``QuantizeConfig``: how a model is quantised; read from and written to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from whet.errors import OptionError, nearest
from whet.quantize.ranges import CALIBRATORS
from whet.whole_files import read_whole

Choice = Literal["int8", "finer", "float"]
"""What becomes of a layer: 8 bits, 8 bits with a grid for each channel, or left alone."""


class QuantizeConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    """How a model is quantised.

    Attributes:
        calibrator: how ranges of activations are chosen; ``CALIBRATORS`` lists the names.
        percentile: share of values in percent that the calibrators percentile and scale_search
            start from.
        activations: type of activations.
        activations_symmetric: whether 0 lies in the middle of their grid.
        weights: type of weights.
        weights_symmetric: whether their zero point is 0.
        per_channel: whether every output channel of a weight has a grid of its own.
        weight_search: whether ranges of weights are narrowed where that lowers the error.
        activation_products: whether products of two activations are quantised; ``None`` for those
            of attention that one kernel does in integers, of a known number of keys up to 512.
        embeddings: whether tables that rows are gathered from are.
        functions: whether functions of single elements between layers, such as Swish, read 8 bits
            too. They are looked up in tables then, which is faster; values are rounded once more.
        bias_correction: whether the mean error of every channel is taken out through its bias.
        equalize: whether weights are balanced across layers first.
        smooth: how much of the spread of activations is moved into weights, 0 to 1; ``None``
            moves none (SmoothQuant's alpha).
        rounding: how weights are rounded: each to the nearest, or together so that the error of
            the layer's result is least (``adaptive``), or one after another with the error handed
            on (``gptq``).
        layers: what becomes of single layers, by node name.
        skip_ops: operators that are left alone.
        batch: samples that run together, where the model leaves the batch open.
        samples: most samples that are read for calibration; 0 for all.
        seed: of everything that is drawn by chance.
    """

    calibrator: str = "mse"
    percentile: float = 99.99
    activations: Literal["uint8", "int8", "uint16", "int16"] = "uint8"
    activations_symmetric: bool = False
    weights: Literal["int8", "uint8", "int4", "uint4"] = "int8"
    weights_symmetric: bool = True
    per_channel: bool = True
    weight_search: bool = False
    activation_products: bool | None = None
    embeddings: bool = True
    functions: bool = False
    bias_correction: bool = False
    equalize: bool = False
    smooth: float | None = None
    rounding: Literal["nearest", "adaptive", "gptq"] = "nearest"
    layers: dict[str, Choice] = {}
    skip_ops: tuple[str, ...] = ()
    batch: int = 8
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values that mean nothing."""
        if self.calibrator not in CALIBRATORS:
            raise OptionError(
                f"there is no calibrator {self.calibrator!r}",
                where="calibrator",
                hint=nearest(self.calibrator, CALIBRATORS),
            )
        if not 50 < self.percentile <= 100:
            raise OptionError(
                f"percentile is {self.percentile}", hint="give more than 50 and at most 100"
            )
        if self.batch < 1 or self.samples < 0:
            raise OptionError("batch is below 1 or samples below 0", hint="give positive numbers")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed is {self.seed}", hint="give 0 or more, below 2**63")
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise OptionError(f"smooth is {self.smooth}", hint="give a number from 0 to 1")

    @property
    def needs_moments(self) -> bool:
        """Whether more is needed of the inputs of products than their ranges."""
        moved = self.rounding != "nearest" or self.smooth is not None
        return moved or self.bias_correction


def config_from_dict(values: Mapping[str, Any], where: str = "config") -> QuantizeConfig:
    """Return a configuration from plain values.

    Raises:
        OptionError: a key is unknown or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise OptionError(
            f"a configuration is no {type(values).__name__}",
            where=where,
            hint="give a QuantizeConfig or its fields",
        )
    for key in values:
        if key not in QuantizeConfig.__struct_fields__:
            raise OptionError(
                f"unknown key {key!r}",
                where=where,
                hint=nearest(key, QuantizeConfig.__struct_fields__),
            )
    try:
        return msgspec.convert(values, QuantizeConfig)
    except msgspec.ValidationError as error:
        raise OptionError(f"{error}", where=where, hint="see docs/quantize.md") from error


def read_config(path: Path) -> QuantizeConfig:
    """Read a configuration file in JSON, or the one that a report ended with.

    Raises:
        OptionError: it cannot be read, or asks for something that there is not.
    """
    try:
        values = msgspec.json.decode(read_whole(path), type=dict[str, Any])
    except OSError as error:
        raise OptionError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OptionError(f"{error}", where=str(path), hint="give a JSON object") from error
    if "schema" in values and "config" in values:
        values = values["config"]
    return config_from_dict(values, str(path))
