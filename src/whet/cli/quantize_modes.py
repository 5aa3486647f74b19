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
            ("calibrator", "activations", "symmetric", "per_tensor", "rounding", "smooth",
             "equalize", "bias_correction", "measured", "goal", "state"), _STATIC,
        ),
        **dict.fromkeys(("max_drop", "metric", "evaluation"), (*_STATIC, *_FLOATS)),
        **dict.fromkeys(("skipped", "asymmetric"), (*_STATIC, *_WEIGHTS)),
    }
)  # fmt: skip
"""Options by parameter name, and the modes that look at them; all others belong to every mode."""


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
    if "goal" in given and "measured" not in given:
        raise OptionError(
            "--goal picks among mixtures that are measured", where="--goal", hint="add --measured"
        )
