"""What several commands take on the command line, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from whet.limits import limits_from_dict
from whet.options import OPT_LEVELS, Options

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Shapes = dict[str, tuple[int | str, ...]]

MOST_AT_ONCE = 1024
"""Of what is made or kept at once for a number on the command line."""

_SWITCHES = {"on": True, "true": True, "off": False, "false": False}


class NumberRange(click.FloatRange):
    """Numbers in a range, of which NaN is none: nothing is larger or smaller than it."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def parse_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """Read ``input:1,3,224,224``; the name may hold colons, a dimension may be a name.

    Raises:
        click.BadParameter: the text is not of that form.
    """
    name, colon, dims = text.rpartition(":")
    parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
    if not colon or not name or not all(map(_is_dim, parts)):
        raise click.BadParameter(
            f"{text!r} is not NAME:DIM,DIM,…, such as input:1,3,224,224", param_hint="'--shape'"
        )
    return name, tuple(int(part) if part.isdecimal() else part for part in parts)


def _is_dim(text: str) -> bool:
    """Tell whether a text is a dimension: a number or a name."""
    return text.isdecimal() or text.isidentifier()


def parse_shapes(texts: Sequence[str]) -> Shapes | None:
    """Read all ``--shape`` values; ``None`` when there are none."""
    shapes: Shapes = {}
    for text in texts:
        name, shape = parse_shape(text)
        if name in shapes:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="'--shape'")
        shapes[name] = shape
    return shapes or None


def parse_switches(texts: Sequence[str]) -> dict[str, bool | int]:
    """Read ``--pass name=off`` values; a number limits the rewrites of a pass."""
    switches: dict[str, bool | int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or (value.lower() not in _SWITCHES and not value.isdecimal()):
            raise click.BadParameter(
                f"{text!r} is not NAME=on, NAME=off or NAME=NUMBER", param_hint="'--pass'"
            )
        switches[name] = int(value) if value.isdecimal() else _SWITCHES[value.lower()]
    return switches


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """Read ``--dim batch=4`` values."""
    dims: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value.isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", param_hint="'--dim'")
        dims[name] = int(value)
    return dims


def parse_limits(texts: Sequence[str]) -> dict[str, int]:
    """Read ``--limit nodes=1000`` values."""
    limits: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value.isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", param_hint="'--limit'")
        limits[name] = int(value)
    return limits


def choice_option(name: str, choices: Sequence[str], says: str) -> Callable[[Decorated], Decorated]:
    """Return an option that takes one of some words, the first by default."""
    kind = click.Choice(choices)
    return click.option(name, type=kind, default=choices[0], show_default=True, help=says)


_COMPILER_OPTIONS = (
    click.option("--shape", "shapes", multiple=True, metavar="NAME:DIMS",
                 help="Fix an input's shape, such as input:1,3,224,224; may be repeated."),
    click.option("--threads", type=click.IntRange(0, 1024), default=0,
                 help="Threads of one run; 0 takes every CPU, or what a .whet was compiled for."),
    click.option("-O", "opt_level", type=click.IntRange(OPT_LEVELS[0], OPT_LEVELS[-1]),
                 default=OPT_LEVELS[-1], show_default=True,
                 help="Optimisation level: 0 none, 1 clean-up, 2 fusion, 3 everything."),
    click.option("--pass", "passes", multiple=True, metavar="NAME=on|off|N",
                 help="Switch one pass, or stop it after N rewrites; may be repeated."),
    click.option("--target", default="host", show_default=True,
                 help="host, or an LLVM triple and CPU, such as aarch64-linux-gnu:neoverse-n1."),
    click.option("--cache-dir", default=None, metavar="DIR",
                 help="Where compiled kernels are kept; an empty text keeps none."),
    click.option("--tuning", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
                 help="Schedules that whet tune found to be faster here."),
    click.option("--host-ops/--no-host-ops", default=True, show_default=True,
                 help="Whether operators such as those on texts may run outside native code."),
    click.option("--limit", "limits", multiple=True, metavar="NAME=N",
                 help="Raise or lower a limit, such as nodes=500000; may be repeated."),
)  # fmt: skip


def compiler_options(function: Decorated) -> Decorated:
    """Add the options that say how to compile; they arrive as keywords for ``read_options``."""
    for option in reversed(_COMPILER_OPTIONS):
        function = option(function)
    return function


def read_options(values: Mapping[str, Any]) -> tuple[Shapes | None, Options]:
    """Turn the values of ``compiler_options`` into what ``whet.compile`` takes."""
    options = Options(
        threads=values["threads"],
        opt_level=values["opt_level"],
        passes=parse_switches(values["passes"]),
        target=values["target"],
        cache_dir=values["cache_dir"],
        host_ops=values["host_ops"],
        tuning=values.get("tuning") or "",
        limits=limits_from_dict(parse_limits(values["limits"])),
    )
    return parse_shapes(values["shapes"]), options


def parse_batches(text: str | None) -> tuple[int, ...]:
    """Read ``--dynamic-batch 1,8,16``."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is not N,N,…", param_hint="'--dynamic-batch'")
    return tuple(int(part) for part in parts)


def parse_images(text: str | None) -> tuple[tuple[int, int], ...]:
    """Read ``--dynamic-image 224x224,448x448``: heights and widths."""
    sizes = [part.strip().partition("x") for part in text.split(",")] if text else []
    if not all(height.isdecimal() and width.isdecimal() for height, _, width in sizes):
        raise click.BadParameter(f"{text!r} is not HxW,HxW,…", param_hint="'--dynamic-image'")
    return tuple((int(height), int(width)) for height, _, width in sizes)


def parse_profiles(text: str | None) -> tuple[tuple[int, ...], ...]:
    """Read ``--dynamic-dims 1,16;8,128``: values of all open dimensions, as often as wanted."""
    profiles = [part.split(",") for part in text.strip(" ;").split(";")] if text else []
    if not all(size.strip().isdecimal() for profile in profiles for size in profile):
        raise click.BadParameter(f"{text!r} is not N,N,…;N,N,…", param_hint="'--dynamic-dims'")
    return tuple(tuple(int(size) for size in profile) for profile in profiles)


bucket_options = (
    click.option("--dynamic-batch", default=None, metavar="N,N,…",
                 help="Make a program of its own for each of these batch sizes."),
    click.option("--dynamic-image", default=None, metavar="HxW,HxW,…",
                 help="Make a program of its own for each of these image sizes."),
    click.option("--dynamic-dims", default=None, metavar="N,N,…;…",
                 help="Make a program of its own for each of these values of all open dimensions, "
                 "in the order of inputs and their axes."),
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
dim_option = click.option("--dim", "dims", multiple=True, metavar="NAME=N",
                          help="Value of a dimension known at run time only.")  # fmt: skip
