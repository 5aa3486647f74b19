"""Configurations of AMCT, Ascend's quantisation tool, as configurations of ``whet quantize``.

Both forms are read: the JSON that lists every layer, and the simplified ``.cfg``, which is protobuf
text. One setting holds for all layers here, apart from which layers are quantised at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import OptionError, nearest
from whet.whole_files import read_text_whole, read_whole

BATCH = 8
"""Samples that run together, as ``QuantizeConfig`` has it."""

_LARGEST_FILE = 1 << 24
_DEEPEST = 16
_MARKS = ("batch_num", "activation_offset", "do_fusion")
_TOKEN = re.compile(
    r"""\s*(?:(?P<open>[A-Za-z_]\w*)\s*:?\s*\{|(?P<close>\})
    |(?P<key>[A-Za-z_]\w*)\s*:\s*(?P<value>"[^"]*"|'[^']*'|[^\s{}]+))""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Found:
    """What a configuration asks for.

    Attributes:
        values: keys of ``QuantizeConfig``.
        notes: what the user should know of keys that do nothing.
    """

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def agree(self, name: str, value: Any, key: str) -> None:
        """Set what holds for all layers.

        Raises:
            OptionError: another layer asked for something else.
        """
        if self.values.setdefault(name, value) != value:
            raise OptionError(
                f"{key} differs between layers", where=key, hint="give one value for all layers"
            )

    def float_layer(self, name: str) -> None:
        """Leave a layer in float."""
        self.values.setdefault("layers", {})[name] = "float"

    def note(self, key: str, why: str) -> None:
        """Say once why a key does nothing."""
        if f"{key}: {why}" not in self.notes:
            self.notes.append(f"{key}: {why}")


Rule = Callable[[Found, str, Any], None]


def _noted(why: str) -> Rule:
    return lambda found, key, value: found.note(key, why)


def _refused(instead: str) -> Rule:
    def refuse(found: Found, key: str, value: Any) -> None:
        raise OptionError(f"{key} is not available", where=key, hint=instead)

    return refuse


def _only(allowed: tuple[Any, ...], instead: str) -> Rule:
    def check(found: Found, key: str, value: Any) -> None:
        if value not in allowed:
            raise OptionError(f"{key}: {value} is not available", where=key, hint=instead)

    return check


def _sets(name: str, of: Callable[[Any], Any] = lambda value: value) -> Rule:
    return lambda found, key, value: found.agree(name, of(value), key)


def _each(act: Callable[[Found, str], None]) -> Rule:
    def all_of(found: Found, key: str, value: Any) -> None:
        for name in value if isinstance(value, list) else [value]:
            act(found, str(name))

    return all_of


def _skip_type(found: Found, name: str) -> None:
    found.values["skip_ops"] = (*found.values.get("skip_ops", ()), name)


def _channel_wise(found: Found, key: str, value: Any) -> None:
    if not value:
        found.note(key, "weights have a grid for each output channel, which is finer")


def _search_range(found: Found, key: str, value: Any) -> None:
    if list(value) != [0.7, 1.3]:
        raise OptionError(f"{key}: {value} is not available", where=key, hint="give 0.7 and 1.3")


def _algorithm(table: Mapping[str, tuple[str, Any]]) -> Rule:
    def choose(found: Found, key: str, value: Any) -> None:
        if value not in table:
            known = ", ".join(table)
            raise OptionError(f"{key}: {value} is not available", where=key, hint=f"give {known}")
        found.agree(*table[value], key)

    return choose


_WHOLE = "whet quantize --mode weights --bits 4 quantises weights to fewer bits"
_LEAVES: dict[str, Rule] = {
    "version": lambda found, key, value: None,
    "batch_num": _sets("samples", lambda n: BATCH * int(n)),
    "activation_offset": _sets("activations_symmetric", lambda on: not on),
    "asymmetric": _sets("activations_symmetric", lambda on: not on),
    "joint_quant": _noted("layers that are added share no grid; sums are quantised themselves"),
    "do_fusion": _only((True,), "batch norms are always folded: leave it out"),
    "skip_fusion_layers": _noted("batch norms are always folded"),
    "skip_layers": _each(Found.float_layer),
    "skip_layer_types": _each(_skip_type),
    "num_bits": _only((8,), _WHOLE),
    "quant_bits": _only((8,), _WHOLE),
    "channel_wise": _channel_wise,
    "with_offset": _sets("weights_symmetric", lambda on: not on),
    "act_algo": _algorithm({"ifmr": ("calibrator", "scale_search"), "hfmg": ("calibrator", "mse")}),
    "wts_algo": _algorithm(
        {"arq_quantize": ("rounding", "nearest"), "ada_quantize": ("rounding", "adaptive")}
    ),
    "max_percentile": _sets("percentile", lambda share: 100 * float(share)),
    "min_percentile": _sets("percentile", lambda share: 100 * float(share)),
    "search_range": _search_range,
    "search_range_start": _only((0.7,), "give 0.7"),
    "search_range_end": _only((1.3,), "give 1.3"),
    "search_step": _noted("31 scales are tried"),
    "num_of_bins": _noted("histograms have 8192 bins"),
    "dmq_balancer_param": _sets("smooth", float),
    "migration_strength": _sets("smooth", float),
    "num_iteration": _noted("adaptive rounding stops by itself"),
    "nuq_config": _refused("weights have equal steps"),
    "enable_auto_nuq": _refused("weights have equal steps"),
    "tensor_quantize": _refused("inputs of quantised layers are quantised, no other tensors"),
    "fakequant_precision_mode": _noted("the model is plain ONNX"),
}
"""Keys with a value, in both forms, and what becomes of them."""

_BLOCKS: dict[str, tuple[str, Any] | None] = {
    "common_config": None, "conv_calibration_config": None, "fc_calibration_config": None,
    "calibration_config": None, "activation_quant_params": None, "weight_quant_params": None,
    "dmq_balancer": None, "arq_quantize": ("rounding", "nearest"),
    "ada_quantize": ("rounding", "adaptive"), "ifmr_quantize": ("calibrator", "scale_search"),
    "hfmg_quantize": ("calibrator", "mse"),
}  # fmt: skip
"""Keys with keys of their own, and what they ask for by being there."""

_OVERRIDES = ("override_layer_configs", "override_layer_types")
_LAYER = ("quant_enable", "dmq_balancer_param", "activation_quant_params", "weight_quant_params")


def is_amct(path: Path) -> bool:
    """Whether a file looks like a configuration of AMCT."""
    if path.suffix == ".cfg":
        return True
    try:
        values = msgspec.json.decode(read_whole(path, _LARGEST_FILE), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return any(mark in values for mark in _MARKS)


def read_amct(path: Path) -> Found:
    """Return what a configuration of AMCT asks for.

    Raises:
        OptionError: it cannot be read, or asks for something that there is not.
    """
    text = _text(path)
    try:
        values = None if path.suffix == ".cfg" else msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise OptionError(f"{error}", where=str(path), hint="give JSON or a .cfg") from error
    found = Found()
    try:
        for key, value in _pairs(text) if values is None else _of_json(values):
            _take(found, key, value)
    except OptionError as error:
        place = f"{path}, {error.where}" if error.where else str(path)
        raise OptionError(error.message, where=place, hint=error.hint) from error
    return found


_INLINE = {
    "input_data_dir": "calibration data", "config_file": "a configuration", "input_shape": "",
    "infer_soc": "", "infer_aicore_num": "", "infer_device_id": "", "infer_ip": "",
    "infer_port": "", "log": "",
}  # fmt: skip
"""Keys of a calibration block of ATC: what they name, nothing for those that have no meaning."""


def inline_arguments(path: Path) -> tuple[list[str], list[str]]:
    """Return the options of ``whet quantize`` for a ``calibration`` block of ATC, and notes.

    Raises:
        OptionError: it cannot be read, or asks for something that there is not.
    """
    pairs = _pairs(_text(path))
    if [key for key, _ in pairs] != ["calibration"] or not isinstance(pairs[0][1], list):
        raise OptionError(
            "this is not one calibration block", where=str(path), hint="write calibration: { … }"
        )
    given: dict[str, str] = {key: str(value) for key, value in pairs[0][1]}
    for key in given:
        if key not in _INLINE:
            raise OptionError(f"unknown key {key!r}", where=str(path), hint=nearest(key, _INLINE))
    data = given.get("input_data_dir")
    if data is None or "," in data or data.endswith(".bin"):
        raise OptionError(
            f"input_data_dir is {data or 'missing'}", where=str(path),
            hint="give one folder of .npy files, .npz files or images",
        )  # fmt: skip
    notes = [f"{key}: code is made for this machine" for key in given if not _INLINE[key]]
    file = given.get("config_file")
    return ["--calibration", data, *(["--config", file] if file else [])], notes


def _text(path: Path) -> str:
    try:
        return read_text_whole(path, _LARGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read the configuration: {error}", where=str(path), hint="give JSON or a .cfg"
        ) from error


def _of_json(value: Any, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a JSON object, with objects as lists of pairs."""
    _check_depth(depth)
    if not isinstance(value, dict):
        raise OptionError("this is no object", where="JSON", hint="write { … }")
    for key, inner in value.items():
        pairs = isinstance(inner, dict)
        yield str(key), list(_of_json(inner, depth + 1)) if pairs else inner


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise OptionError("blocks are nested too deeply", hint="AMCT nests three")


def _pairs(text: str) -> list[tuple[str, Any]]:
    """Return the keys of protobuf text; a block becomes a list of pairs."""
    bare = re.sub(r"#[^\n]*", "", text)
    stack: list[list[tuple[str, Any]]] = [[]]
    position = 0
    while bare[position:].strip():
        match = _TOKEN.match(bare, position)
        if match is None or (match["close"] and len(stack) == 1):
            line = bare.count("\n", 0, position) + 1
            raise OptionError("no key and value", where=f"line {line}", hint="write key: value")
        if match["open"]:
            _check_depth(len(stack))
            block: list[tuple[str, Any]] = []
            stack[-1].append((match["open"], block))
            stack.append(block)
        elif match["close"]:
            stack.pop()
        else:
            stack[-1].append((match["key"], _value(match["value"])))
        position = match.end()
    if len(stack) > 1:
        raise OptionError("a block is not closed", where=stack[-2][-1][0], hint="add a brace")
    return stack[0]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        return text.strip("\"'")


def _take(found: Found, key: str, value: Any) -> None:
    """Apply one key, and what is in it."""
    if key in _LEAVES:
        _apply(found, key, value)
    elif isinstance(value, list) and (key in _BLOCKS or key in _OVERRIDES):
        asked = _BLOCKS.get(key)
        if asked is not None:
            found.agree(*asked, key)
        for inner, content in value:
            if key not in _OVERRIDES or inner not in ("layer_name", "layer_type"):
                _take(found, inner, content)
    elif _is_layer(value):
        _take_layer(found, key, value)
    else:
        known = (*_LEAVES, *_BLOCKS, *_OVERRIDES)
        raise OptionError(f"unknown key {key!r}", where=key, hint=nearest(key, known))


def _apply(found: Found, key: str, value: Any) -> None:
    try:
        _LEAVES[key](found, key, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(
            f"{key} is {value!r}", where=key, hint="give a value of the right type"
        ) from error


def _is_layer(value: Any) -> bool:
    pairs = isinstance(value, list) and all(isinstance(p, tuple) for p in value)
    return bool(pairs and value) and any(key in _LAYER for key, _ in value)


def _take_layer(found: Found, name: str, pairs: list[tuple[str, Any]]) -> None:
    """Apply the settings of one layer; those of a layer in float do not matter."""
    if dict(pairs).get("quant_enable") is False:
        found.float_layer(name)
        return
    for key, value in pairs:
        if key != "quant_enable":
            _take(found, key, value)
