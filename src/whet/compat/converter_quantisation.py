"""The sections of MindSpore Lite's converter that quantise, as options of ``whet quantize``."""

from __future__ import annotations

from pathlib import Path

from whet.compat.translation import Given, Noted, Refused, Rule, Used
from whet.errors import OptionError

_HERE = "code is made for the CPU of this machine"
_SIZES = "weights of every size are quantised"
_PLAIN = "weights lie in the file as they are, and become floats where they are multiplied"
_TARGET = "whet quantize --max-drop 0.5% finds which layers have to stay in float"
_DYNAMIC = "give quant_type=FULL_QUANT with calibration data, or WEIGHT_QUANT without"

SECTIONS: dict[str, dict[str, Rule]] = {
    "common_quant_param": {
        "quant_type": Used(), "bit_num": Used(), "skip_quant_node": Used(),
        "debug_info_save_path": Used(), "min_quant_weight_size": Noted(_SIZES),
        "min_quant_weight_channel": Noted(_SIZES), "enable_encode": Noted(_PLAIN),
    },
    "weight_quant_param": {
        "quant_strategy": Used(), "per_channel": Used(), "bias_correction": Used(),
        "dequant_strategy": Noted(_PLAIN), "max_segments": Noted(_PLAIN),
        "update_mindir": Noted("the model is not changed"),
    },
    "mixed_bit_weight_quant_param": {
        "init_scale": Refused(_TARGET), "auto_tune": Refused(_TARGET),
        "use_cv_data": Refused(_TARGET),
    },
    "full_quant_param": {
        "activation_quant_method": Used(), "bias_correction": Used(), "per_channel": Used(),
        "smooth_alpha": Used(), "target_device": Noted(_HERE),
    },
    "data_preprocess_param": {
        "calibrate_path": Used(), "calibrate_size": Used(), "input_type": Used(),
        "image_to_format": Used(), "normalize_mean": Used(), "normalize_std": Used(),
        "resize_width": Used(), "resize_height": Used(), "center_crop_width": Used(),
        "center_crop_height": Used(), "resize_method": Noted("images are resized bilinearly"),
    },
    "dynamic_quant_param": {"quant_strategy": Refused(_DYNAMIC)},
    "transform_quant_param": {"precision_mode": Refused(_TARGET)},
}  # fmt: skip
"""Sections and keys that are known, and what becomes of them."""

_CALIBRATORS = {"MAX_MIN": "minmax", "KL": "entropy", "REMOVAL_OUTLIER": "percentile"}


def quantise_arguments(config: Given) -> list[str]:
    """Return the options of ``whet quantize``; none where nothing is to be quantised.

    Raises:
        OptionError: a value is not available here.
    """
    acting = [k for rules in SECTIONS.values() for k, r in rules.items() if isinstance(r, Used)]
    if not any(config.get(key) for key in acting):
        return []
    kind = config.get("quant_type")
    if kind not in ("FULL_QUANT", "WEIGHT_QUANT"):
        raise OptionError(f"quant_type is {kind or 'missing'}", where="quant_type", hint=_DYNAMIC)
    found = _full(config) if kind == "FULL_QUANT" else _weights(config)
    found += _calibration(config)
    skipped = [name.strip() for name in (config.get("skip_quant_node") or "").split(",")]
    found += [word for name in skipped if name for word in ("--skip", name)]
    folder = config.get("debug_info_save_path")
    return found + (["--report", str(Path(folder) / "quantize.json")] if folder else [])


def _full(config: Given) -> list[str]:
    if config.get("bit_num") not in (None, "8"):
        raise _refusal(config, "bit_num", "activations and weights take 8: give 8")
    if not config.get("calibrate_path"):
        raise OptionError("calibrate_path is missing", hint="FULL_QUANT reads calibration data")
    found = []
    method = config.get("activation_quant_method")
    if method is not None:
        if method not in _CALIBRATORS:
            raise _refusal(config, "activation_quant_method", f"give {', '.join(_CALIBRATORS)}")
        found += ["--calibrator", _CALIBRATORS[method]]
    found += ["--bias-correction"] if _flag(config, "bias_correction", False) else []
    found += [] if _flag(config, "per_channel", True) else ["--per-tensor"]
    alpha = config.get("smooth_alpha")
    return found + (["--smooth", alpha] if alpha is not None else [])


def _weights(config: Given) -> list[str]:
    bits = config.get("bit_num") or "8"
    if bits not in ("4", "8"):
        raise _refusal(config, "bit_num", "give 4 or 8")
    found = ["--mode", "weights", "--bits", bits]
    strategy = config.get("quant_strategy")
    if strategy not in (None, "MAX_MIN", "GPTQ"):
        raise _refusal(config, "quant_strategy", "give MAX_MIN or GPTQ")
    for key in ("per_channel", "bias_correction"):
        if config.get(key) is not None:
            _flag(config, key, False)
            config.notes.append(f"{key}: groups of weights share a scale, whet quantize --block")
    return found + (["--method", "gptq"] if strategy == "GPTQ" else [])


def _calibration(config: Given) -> list[str]:
    text = config.get("calibrate_path")
    if text is None:
        return []
    if "," in text:
        raise _refusal(config, "calibrate_path", "put all inputs into .npz files in one folder")
    if config.get("quant_type") == "WEIGHT_QUANT" and config.get("quant_strategy") != "GPTQ":
        config.notes.append("calibrate_path: weights alone are rounded to the nearest")
        return []
    path = text.partition(":")[2] or text
    size = config.get("calibrate_size")
    found = ["--calibration", path, *(["--samples", size] if size else [])]
    kind = config.get("input_type")
    if kind == "BIN":
        raise _refusal(config, "input_type", "save the arrays as .npy or .npz")
    return found + (["--image", _image(config)] if kind == "IMAGE" else [])


def _image(config: Given) -> str:
    """Return how images become inputs; pixels are normalised as they are, from 0 to 255."""
    parts = ["scale=1"]
    for key, name in (("normalize_mean", "mean"), ("normalize_std", "std")):
        numbers = (config.get(key) or "").strip("[] ")
        if numbers:
            parts.append(f"{name}={'/'.join(n.strip() for n in numbers.split(','))}")
    order = config.get("image_to_format")
    if order is not None:
        if order not in ("RGB", "BGR"):
            raise _refusal(config, "image_to_format", "give RGB or BGR")
        parts.append(f"order={order.lower()}")
    width, height = config.get("resize_width"), config.get("resize_height")
    if config.get("center_crop_width", "center_crop_height") is None:
        if width or height:
            config.notes.append("resize_width, resize_height: images take the size of the input")
        return ",".join(parts)
    if width is None or width != height:
        raise _refusal(config, "resize_width", "before a crop, both sides are resized to one size")
    return ",".join([*parts, f"resize={width}"])


def _flag(config: Given, key: str, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise _refusal(config, key, "give true or false")
    return value == "true"


def _refusal(config: Given, key: str, instead: str) -> OptionError:
    return OptionError(f"{key}={config.get(key)} is not available", where=key, hint=instead)
