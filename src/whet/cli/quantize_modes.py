"""Which options of ``whet quantize`` belong to which mode: others would change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from whet.errors import OptionError

_STATIC, _WEIGHTS, _FLOATS = ("static",), ("weights",), ("float16", "bfloat16")

MODES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("bits", "block", "method", "form", "integer_rows"), _WEIGHTS),
        **dict.fromkeys(
            ("config_file", "calibrator", "activations", "symmetric", "per_tensor", "rounding",
             "smooth", "equalize", "functions", "bias_correction", "measured", "goal", "state"),
            _STATIC,
        ),
        **dict.fromkeys(("max_drop", "metric", "evaluation"), (*_STATIC, *_FLOATS)),
        **dict.fromkeys(("skipped", "asymmetric", "seed"), (*_STATIC, *_WEIGHTS)),
    }
)  # fmt: skip
"""Options by parameter name, and the modes that look at them; all others belong to every mode."""


_TARGET = ("max_drop", "measured")
_DATA = ("calibration", "evaluation")
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "goal": ("measured",),
        **dict.fromkeys(("metric", "evaluation"), _TARGET),
        **dict.fromkeys(("samples", "batch", "image"), _DATA),
    }
)
"""Options that change nothing unless one of others is there."""


def check_modes(context: click.Context, mode: str) -> None:
    """Refuse options that were given and that a mode does not look at.

    Raises:
        OptionError: naming the option and the modes that it belongs to.
    """
    given = {
        parameter.name: parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name
        and context.get_parameter_source(parameter.name) == click.core.ParameterSource.COMMANDLINE
    }
    for name, option in given.items():
        modes = MODES.get(name, (mode,))
        if mode not in modes:
            raise OptionError(
                f"{option} changes nothing with --mode {mode}",
                where="quantize",
                hint=f"leave it out, or use --mode {' or '.join(modes)}",
            )
    _check_needs(given)
    if mode == "weights" and context.params["method"] == "nearest" and "calibration" in given:
        raise OptionError(
            "--calibration changes nothing where weights are rounded to the nearest",
            where="quantize",
            hint="leave it out, or use --method gptq or awq",
        )


def _check_needs(given: Mapping[str, str]) -> None:
    for name, others in NEEDS.items():
        if name in given and not set(others) & set(given):
            hint = " or ".join(f"--{other.replace('_', '-')}" for other in others)
            raise OptionError(
                f"{given[name]} changes nothing alone", where="quantize", hint=f"add {hint}"
            )
