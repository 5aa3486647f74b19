"""Configuration files of MindSpore Lite's converter: ``.ini`` sections as options of ``whet``."""

from __future__ import annotations

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from pathlib import Path

from whet.compat import converter_quantisation
from whet.compat.translation import Given, Noted, Refused, Rule, Used
from whet.errors import OptionError, nearest
from whet.whole_files import read_text_whole

_TYPES = "arithmetic has the types of the model"
_HERE = "code is made for the CPU of this machine"

SECTIONS: dict[str, dict[str, Rule]] = {
    "ascend_context": {
        "input_shape": Used(), "dynamic_dims": Noted("open dimensions take any size"),
        "fusion_switch_config_file_path": Used(), "insert_op_config_file_path": Used(),
        "precision_mode": Used(), "output_type": Used(), "input_format": Used(),
        "op_select_impl_mode": Noted(_HERE), "device_id": Noted(_HERE), "provider": Noted(_HERE),
        "aoe_mode": Refused("tune the ONNX model first: whet tune m.onnx"),
    },
    "acl_option_cfg_param": {"input_shape": Used(), "insert_op_config_file_path": Used()},
    "graph_kernel_param": {"opt_level": Used()},
    **converter_quantisation.SECTIONS,
}  # fmt: skip
"""Sections and keys that are known, and what becomes of them."""


def read_config(path: Path) -> Given:
    """Read a configuration file; keys of all sections go together.

    Raises:
        OptionError: it cannot be read, or a section, key or value is not available.
    """
    parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    try:
        parser.read_string(read_text_whole(path), source=str(path))
    except (OSError, UnicodeDecodeError, IniError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"cannot read the configuration: {reason}", where=str(path), hint="write [section]"
        ) from error
    values: dict[str, str] = {}
    notes: list[str] = []
    for section in parser.sections():
        place = f"{path}, [{section}]"
        _take(dict(parser[section]), _rules(section, place), place, (values, notes))
    given = Given(values, notes)
    _check(given)
    return given


def _rules(section: str, place: str) -> Mapping[str, Rule]:
    if section not in SECTIONS:
        hint = nearest(section, SECTIONS)
        raise OptionError(f"unknown section {section!r}", where=place, hint=hint)
    return SECTIONS[section]


def _take(
    pairs: Mapping[str, str],
    rules: Mapping[str, Rule],
    place: str,
    found: tuple[dict[str, str], list[str]],
) -> None:
    values, notes = found
    for key, value in pairs.items():
        if key not in rules:
            raise OptionError(f"unknown key {key!r}", where=place, hint=nearest(key, rules))
        rule = rules[key]
        if isinstance(rule, Refused):
            raise OptionError(f"{key} is not available", where=place, hint=rule.instead)
        if isinstance(rule, Noted):
            notes.append(f"{key}: {rule.why}")
        elif values.setdefault(key, value.strip("\"'")) != value.strip("\"'"):
            raise OptionError(f"{key} has two values", where=place, hint="keep one")


def _check(given: Given) -> None:
    given.choose("input_format", {"NCHW": "", "ND": ""}, "inputs keep the layout of the model")
    given.choose("output_type", {"FP32": ""}, "outputs keep the type of the model")
    kept = ("enforce_fp32", "force_fp32", "preferred_optimal", "must_keep_origin_dtype",
            "enforce_origin")  # fmt: skip
    given.choose("precision_mode", dict.fromkeys(kept, _TYPES), "convert the model to float16")
    levels = dict.fromkeys("0123", "")
    given.choose("opt_level", levels, "give 0 to 3")
