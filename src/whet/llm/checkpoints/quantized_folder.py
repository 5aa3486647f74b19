"""Folders whose matrices are quantised: which are, and how they are read.

``quantization_config`` of ``config.json`` names the method: blocks of ``whet llm quantize``, GPTQ,
AWQ, or compressed-tensors with integers. Anything else is refused by its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from whet.errors import UnsupportedError
from whet.kernel.block_formats import FORMATS, BlockFormat, dequantized
from whet.llm.architecture import Array
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.integer_layouts import (
    Layer,
    awq_matrix,
    byte_matrix,
    gptq_matrix,
    packed_matrix,
)
from whet.llm.checkpoints.integer_weights import IntegerMatrix
from whet.llm.checkpoints.safetensors_reader import Stored

Tensors = Mapping[str, Stored]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A quantised matrix.

    Attributes:
        shape: columns and depth.
        format: the format of ``whet.kernel.block_formats`` that holds it exactly, if one does.
        order: which places of the depth follow each other in its blocks; ``None`` for all.
        floats: gives it in float32.
        blocks: gives it in bytes of the format.
    """

    shape: tuple[int, int]
    format: Callable[[], str | None]
    order: Callable[[], Array | None]
    floats: Callable[[], Array]
    blocks: Callable[[], Array]


PARTS = frozenset(
    [
        "qweight",
        "qzeros",
        "scales",
        "g_idx",
        "weight_packed",
        "weight_scale",
        "weight_shape",
        "weight_zero_point",
        "weight_g_idx",
    ]
)
"""Last parts of the names of tensors that a quantised matrix is made of."""


def check_method(config: Config) -> None:
    """Refuse a folder whose quantisation is not known, before its tensors are read.

    Raises:
        UnsupportedError: it is named, with what to give instead.
    """
    given = config.nested("quantization_config")
    method = given.text("quant_method", "")
    if given.values and method not in METHODS:
        raise refused(config, f"by {method or 'an unknown method'!r}")


def quantized_matrices(config: Config, tensors: Tensors) -> dict[str, Matrix]:
    """Return the quantised matrices of a folder, by the names that they have in floats.

    Raises:
        UnsupportedError: something of the method is not known.
        ModelError: a tensor is missing or does not hold what the configuration says.
    """
    given = config.nested("quantization_config")
    if not given.values:
        return {}
    check_method(config)
    return METHODS[given.text("quant_method", "")](given, tensors)


def refused(config: Config, what: str) -> UnsupportedError:
    """Return the error that weights are quantised in a way that is not known."""
    return UnsupportedError(
        f"weights are quantised {what}",
        where=config.where,
        hint="GPTQ, AWQ (gemm) and compressed-tensors of integers are read; "
        "else give the checkpoint in floats, or a GGUF file",
    )


def _whet(given: Config, tensors: Tensors) -> dict[str, Matrix]:
    """Return what ``whet llm quantize`` wrote: rows of bytes."""
    found: dict[str, Matrix] = {}
    for name, kind in given.nested("tensors").values.items():
        stored = tensors.get(name)
        if kind not in FORMATS or stored is None or len(stored.shape) != 2:
            raise given.error(f"{name!r} is no matrix in blocks {kind!r}")
        form = FORMATS[kind]
        if stored.shape[1] % form.group_bytes:
            raise given.error(f"rows of {name!r} are no blocks of {kind}")
        shape = stored.shape[0], stored.shape[1] // form.group_bytes * form.block
        found[name] = Matrix(
            shape, partial(str, kind), _none, partial(_dequantized, form, stored), stored.raw
        )
    return found


def _dequantized(form: BlockFormat, stored: Stored) -> Array:
    return dequantized(form, stored.raw())


def _none() -> None:
    return None


def _gptq(given: Config, tensors: Tensors) -> dict[str, Matrix]:
    form = given.text("checkpoint_format", "gptq")
    odd = next((k for k in ("is_marlin_format", "dynamic") if given.values.get(k)), None)
    if form not in ("gptq", "gptq_v2") or odd is not None:
        raise refused(given, f"by GPTQ as {odd or form!r}")
    bits = _bits(given, given.values.get("bits"), (2, 3, 4, 8))
    read = partial(gptq_matrix, bits=bits, group=_group(given), first=int(form == "gptq"))
    return _layers(given, tensors, "qweight", read)


def _awq(given: Config, tensors: Tensors) -> dict[str, Matrix]:
    version = given.text("version", "gemm").lower()
    if version != "gemm":
        raise refused(given, f"by AWQ in version {version!r}")
    _bits(given, given.values.get("bits", given.values.get("w_bit")), (4,))
    read = partial(awq_matrix, group=_group(given, "group_size", "q_group_size"))
    return _layers(given, tensors, "qweight", read)


def _compressed(given: Config, tensors: Tensors) -> dict[str, Matrix]:
    schemes = [_scheme(given, key) for key in given.nested("config_groups").values]
    if not schemes or any(s != schemes[0] for s in schemes):
        raise refused(given, f"by compressed-tensors with {len(schemes)} different groups")
    form, facts = schemes[0]
    symmetric, group = facts.flag("symmetric", default=True), _group(facts)
    if form == "pack-quantized":
        bits = _bits(given, facts.values.get("num_bits"), (2, 3, 4, 8))
        packed = partial(packed_matrix, bits=bits, group=group, symmetric=symmetric)
        return _layers(given, tensors, "weight_packed", packed)
    bits = _bits(given, facts.values.get("num_bits"), (2, 3, 4, 8))
    bytes_ = partial(byte_matrix, bits=bits, group=group, symmetric=symmetric)
    return _layers(given, tensors, "weight_scale", bytes_)


def _scheme(given: Config, key: str) -> tuple[str, Config]:
    """Return format and facts of the weights of a group of layers.

    Raises:
        UnsupportedError: it is none of integers.
    """
    scheme = given.nested("config_groups").nested(key)
    form = scheme.text("format", given.text("format", ""))
    facts = Config(scheme.nested("weights").values, given.where)
    strategy = facts.text("strategy", "")
    if form not in ("pack-quantized", "int-quantized"):
        raise refused(given, f"by compressed-tensors in format {form!r}")
    if facts.text("type", "int") != "int" or strategy not in ("tensor", "channel", "group"):
        raise refused(
            given, f"by compressed-tensors as {facts.text('type', 'int')} by {strategy!r}"
        )
    known = ("num_bits", "symmetric", "group_size", "strategy", "type")
    return form, Config({k: facts.values.get(k) for k in known}, given.where)


def _layers(
    given: Config, tensors: Tensors, mark: str, read: Callable[[Layer], IntegerMatrix]
) -> dict[str, Matrix]:
    """Return the matrices of all layers that have a tensor of some name."""
    layers: dict[str, dict[str, Stored]] = defaultdict(dict)
    for name, tensor in tensors.items():
        prefix, _, part = name.rpartition(".")
        layers[prefix][part] = tensor
    found: dict[str, Matrix] = {}
    for prefix, parts in layers.items():
        if mark not in parts:
            continue
        matrix = read(Layer(prefix, given.where, parts))
        found[f"{prefix}.weight"] = Matrix(
            matrix.shape,
            partial(getattr, matrix, "format"),
            partial(getattr, matrix, "order"),
            matrix.floats,
            matrix.blocks,
        )
    if not found:
        raise given.error(f"no tensor ends in {mark}, which the quantisation needs")
    return found


def _bits(given: Config, bits: Any, known: tuple[int, ...]) -> int:
    if not isinstance(bits, int) or bits not in known:
        raise refused(given, f"to {bits!r} bits")
    return bits


def _group(given: Config, *names: str) -> int:
    """Return how many places of the depth have one scale; 0 for all."""
    value = next((given.values[n] for n in names or ("group_size",) if n in given.values), None)
    if value is None or value == -1:
        return 0
    if not isinstance(value, int) or value < 1:
        raise given.error(f"group_size is {value!r}")
    return value


METHODS: Mapping[str, Callable[[Config, Tensors], dict[str, Matrix]]] = MappingProxyType(
    {"whet": _whet, "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}
)
"""Methods by the name that ``quantization_config`` has for them."""
