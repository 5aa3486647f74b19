"""``optimization_config.json``: a strategy file in the form that users of Ascend know.

Every key does what it says or is refused by name: nothing is accepted and passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from whet.errors import OptionError, nearest
from whet.passes.pipeline import REWRITES, pass_names
from whet.whole_files import read_whole


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all sections: unknown keys are errors."""


class ModelInfo(_Section, frozen=True):
    """``input_model`` and ``output_model``: the files, relative to the strategy file."""

    input_model: str | None = None
    output_model: str | None = None


class FusionPattern(_Section, frozen=True):
    """A pattern and whether it is rewritten."""

    pattern_name: str
    enabled: bool = True


class GraphOptimization(_Section, frozen=True):
    """Which rewrites run.

    ``enable_operator_fusion`` off stops all rewrites but those that ``fusion_patterns`` enable.
    """

    enable_operator_fusion: bool = True
    fusion_patterns: tuple[FusionPattern, ...] = ()
    enable_constant_folding: bool = True
    enable_memory_reuse: bool = True


class CompilationConfig(_Section, frozen=True):
    """Layout of the inputs and element type of the results."""

    input_format: Literal["NCHW", "ND"] | None = None
    output_type: Literal["FP32"] | None = None


class Convolution(_Section, frozen=True):
    """How convolutions are computed."""

    tile_size: Literal["auto"] | None = None
    enable_winograd: bool | None = None
    precision_mode: Literal["fp32", "force_fp32", "must_keep_origin_dtype"] | None = None


class FullyConnected(_Section, frozen=True):
    """Whether products of one input become one product."""

    enable_batch_merge: bool | None = None


class OperatorTuning(_Section, frozen=True):
    """Settings by kind of operator."""

    convolution: Convolution = Convolution()
    fully_connected: FullyConnected = FullyConnected()


class DynamicShapeConfig(_Section, frozen=True):
    """Smallest and largest shape of inputs; dimensions that differ stay open."""

    enable_dynamic_shape: bool = False
    shape_ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    optimization_strategy: Literal["symbolic"] | None = None


class StreamConfig(_Section, frozen=True):
    """Streams are chosen where a model runs, not where it is optimised."""

    num_streams: Literal[1] = 1
    stream_priority: Literal["normal"] | None = None
    enable_cross_stream_memory_reuse: Literal[False] = False


class StrategyFile(_Section, frozen=True):
    """The whole file."""

    optimization_version: Literal["2.0"]
    model_info: ModelInfo = ModelInfo()
    graph_optimization: GraphOptimization = GraphOptimization()
    compilation_config: CompilationConfig = CompilationConfig()
    operator_tuning: OperatorTuning = OperatorTuning()
    dynamic_shape_config: DynamicShapeConfig = DynamicShapeConfig()
    stream_config: StreamConfig = StreamConfig()


PATTERNS: dict[str, tuple[str, ...]] = {
    "conv_bn_relu": ("fold_batchnorm",),
    "conv_bn": ("fold_batchnorm",),
    "conv_scale": ("fold_scale",),
    "pad_conv": ("fold_pad",),
    "matmul_add": ("fuse_matmul_add",),
    "layer_norm": ("fuse_layernorm",),
    "rms_norm": ("fuse_rmsnorm",),
    "gelu": ("fuse_gelu",),
    "silu": ("fuse_silu",),
    "hard_swish": ("fuse_hardswish",),
    "qkv_matmul": ("merge_matmuls",),
}
"""Names of patterns; the names of passes are valid too."""

_REFUSED = {
    "tile_size": "tile sizes come from a cost model; give auto or leave it out",
    "precision_mode": "arithmetic is in the types of the model; give fp32, or convert the model",
    "output_type": "outputs have the types of the model; give FP32, or convert the model",
    "input_format": "inputs have the layout of the model; give NCHW or ND",
    "optimization_strategy": "open dimensions are symbolic: one program for all; leave it out",
    "num_streams": "a program serves any number of requests at once; see whet bench --streams",
    "stream_priority": "streams have equal rights; give normal or leave it out",
    "enable_cross_stream_memory_reuse": "each stream has memory of its own; give false",
    "optimization_version": "this is version 2.0 of the file",
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a strategy file asks for.

    Attributes:
        input_model: the model, if it is named.
        output_model: where the result goes, if it is named.
        opt_level: 3, or 2 without Winograd convolution.
        passes: switches by pass name.
        shapes: shapes by input name.
    """

    input_model: Path | None = None
    output_model: Path | None = None
    opt_level: int = 3
    passes: dict[str, bool | int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)


def strategy_schema() -> dict[str, Any]:
    """Return the JSON schema of the file."""
    return msgspec.json.schema(StrategyFile)


def read_strategy(path: Path) -> Strategy:
    """Read a strategy file.

    Raises:
        OptionError: it cannot be read, or asks for something that there is not.
    """
    try:
        content = msgspec.json.decode(read_whole(path), type=StrategyFile)
    except OSError as error:
        raise OptionError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{error}", where=str(path), hint=_hint(str(error))) from error
    return _strategy(content, path)


def _hint(message: str) -> str:
    """Return why a key is refused, or the nearest key for one that does not exist."""
    for key, reason in _REFUSED.items():
        if f".{key}`" in message:
            return reason
    if "unknown field" in message:
        return nearest(message.split("`")[1], _all_keys())
    return "docs/schemas/optimization_config.json describes the file"


def _all_keys() -> list[str]:
    kinds = (StrategyFile, ModelInfo, FusionPattern, GraphOptimization, CompilationConfig)
    more = (OperatorTuning, Convolution, FullyConnected, DynamicShapeConfig, StreamConfig)
    return [name for kind in (*kinds, *more) for name in kind.__struct_fields__]


def _strategy(content: StrategyFile, path: Path) -> Strategy:
    if not content.graph_optimization.enable_memory_reuse:
        raise OptionError(
            "enable_memory_reuse cannot be switched off alone",
            where=str(path),
            hint="leave it out; whet compile -O0 gives every value memory of its own",
        )
    convolution = content.operator_tuning.convolution
    info = content.model_info
    return Strategy(
        input_model=path.parent / info.input_model if info.input_model else None,
        output_model=path.parent / info.output_model if info.output_model else None,
        opt_level=2 if convolution.enable_winograd is False else 3,
        passes=_passes(content, str(path)),
        shapes=_shapes(content.dynamic_shape_config, str(path)),
    )


def _passes(content: StrategyFile, where: str) -> dict[str, bool | int]:
    graph, switches = content.graph_optimization, dict[str, bool | int]()
    if not graph.enable_operator_fusion:
        switches.update(dict.fromkeys((entry.name for entry in REWRITES), False))
    if not graph.enable_constant_folding:
        switches["fold_constants"] = False
    merge = content.operator_tuning.fully_connected.enable_batch_merge
    if merge is not None:
        switches["merge_matmuls"] = merge
    for pattern in graph.fusion_patterns:
        name = pattern.pattern_name
        known = PATTERNS.get(name, (name,) if name in pass_names() else ())
        if not known:
            raise OptionError(
                f"there is no pattern {name!r}",
                where=where,
                hint=nearest(name, (*PATTERNS, *pass_names())),
            )
        switches.update(dict.fromkeys(known, pattern.enabled))
    return switches


def _shapes(config: DynamicShapeConfig, where: str) -> dict[str, tuple[int | str, ...]]:
    shapes: dict[str, tuple[int | str, ...]] = {}
    for name, (low, high) in config.shape_ranges.items():
        if len(low) != len(high) or any(a > b or a < 0 for a, b in zip(low, high, strict=True)):
            raise OptionError(
                f"the range of {name!r} goes from {list(low)} to {list(high)}",
                where=where,
                hint="give the smallest and the largest shape",
            )
        if low != high and not config.enable_dynamic_shape:
            raise OptionError(
                f"{name!r} has a range of shapes, but enable_dynamic_shape is false",
                where=where,
                hint="set it to true, or give one shape",
            )
        stem = "".join(c if c.isalnum() else "_" for c in name)
        shapes[name] = tuple(
            a if a == b else f"{stem}_{axis}"
            for axis, (a, b) in enumerate(zip(low, high, strict=True))
        )
    return shapes
