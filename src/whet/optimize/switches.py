"""Files that switch passes: JSON or lines of ``Name:off``, with our names or those of Ascend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whet.errors import OptionError, nearest
from whet.passes.pipeline import REWRITES, pass_names
from whet.whole_files import read_text_whole

ASCEND_PASSES: dict[str, tuple[str, ...]] = {
    "ConvBatchnormFusionPass": ("fold_batchnorm",),
    "ConvScaleFusionPass": ("fold_scale",),
    "PadConv2dFusionPass": ("fold_pad",),
    "BatchMatmulFusionPass": ("merge_matmuls",),
    "MatMulBiasAddFusionPass": ("fuse_matmul_add",),
    "LayerNormONNXFusionPass": ("fuse_layernorm",),
    "GeluFusionPass": ("fuse_gelu",),
    "ConstantFoldingPass": ("fold_constants",),
    "CommonSubexpressionEliminationPass": ("eliminate_common_subexpressions",),
    "TransposeOptimizationPass": ("merge_transposes", "merge_reshapes"),
}
"""Ascend's rules that have a counterpart here."""

_ALL = "ALL"
_WORDS = {"on": True, "off": False}


def read_switches(path: Path) -> dict[str, bool]:
    """Read a file of fusion switches.

    Either lines of ``Name:on`` and ``Name:off``, or JSON: ``{"Name": "off"}`` or
    ``{"Switch": {"GraphFusion": {"ALL": "off", "Name": "on"}, "UBFusion": {…}}}``. ``ALL`` stands
    for all rewrites, and single names count against it.

    Raises:
        OptionError: the file cannot be read, or a name or a word is not valid.
    """
    try:
        text = read_text_whole(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read the switches: {error}", where=str(path), hint="check the path"
        ) from error
    return switches_from_text(text, str(path))


_FORM = 'write {"Switch": {"GraphFusion": {"fuse_gelu": "off"}}}'


def switches_from_text(text: str, where: str) -> dict[str, bool]:
    """Return the switches that a text has, in one of the forms of ``read_switches``.

    Raises:
        OptionError: a name or a word is not valid.
    """
    switches: dict[str, bool] = {}
    for name, word in sorted(_parse(text, where), key=lambda pair: pair[0] != _ALL):
        if word not in _WORDS:
            raise OptionError(f"{name} is {word!r}", where=where, hint="say on or off")
        for known in _resolve(name, where):
            switches[known] = _WORDS[word]
    return switches


def _parse(text: str, where: str) -> list[tuple[str, str]]:
    if not text.lstrip().startswith("{"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        wrong = [line for line in lines if ":" not in line]
        if wrong:
            raise OptionError(
                f"{wrong[0]!r} is not NAME:on or NAME:off",
                where=where,
                hint="such as fuse_gelu:off",
            )
        return [(line.partition(":")[0].strip(), line.partition(":")[2].strip()) for line in lines]
    try:
        content = json.loads(text)
    except ValueError as error:
        raise OptionError(f"not JSON: {error}", where=where, hint=_FORM) from error
    groups = content.get("Switch", {"passes": content})
    found: list[tuple[str, str]] = []
    for group in groups.values() if isinstance(groups, dict) else [groups]:
        if not isinstance(group, dict):
            raise OptionError("switches are groups of names", where=where, hint=_FORM)
        found += [(name, _word(value)) for name, value in group.items()]
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _resolve(name: str, where: str) -> tuple[str, ...]:
    if name == _ALL:
        return tuple(entry.name for entry in REWRITES)
    if name in pass_names():
        return (name,)
    if name in ASCEND_PASSES:
        return ASCEND_PASSES[name]
    raise OptionError(
        f"there is no pass {name!r}",
        where=where,
        hint=nearest(name, (*pass_names(), *ASCEND_PASSES)),
    )
