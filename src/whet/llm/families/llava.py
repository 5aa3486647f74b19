"""LLaVA: the vision tower of CLIP and a projector of two layers in front of a language model."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.config import Config
from whet.llm.families.table import architecture_of
from whet.llm.graphs.graph import FLOAT
from whet.llm.graphs.vision_graph import Tower, VisionWriter
from whet.llm.images.image_resize import (
    Scaling,
    center_crop,
    processor_facts,
    scaling_of,
    shortest_edge,
    side,
)
from whet.llm.images.vision import Model, Pixels, Renamed, Vision, plain_name, text_config

_DEFAULTS = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
}
"""Of the language model, where a configuration leaves them out."""


def llava(checkpoint: Checkpoint) -> Model:
    """Return a LLaVA 1.5; source: ``modeling_llava.py`` of transformers.

    Raises:
        UnsupportedError: its tower is not CLIP's, or it takes features of several layers.
    """
    config, plain = checkpoint.config, Renamed(checkpoint, plain_name)
    inner = config.nested("vision_config")
    layer = config.values.get("vision_feature_layer", -2)
    kind = inner.text("model_type", "clip_vision_model")
    if kind != "clip_vision_model" or not isinstance(layer, int):
        raise UnsupportedError(
            f"a vision tower {kind!r} whose features are of layers {layer!r}",
            where=config.where,
            hint="clip_vision_model and one layer are known",
        )
    text = text_config(config, _DEFAULTS)
    size, patch = inner.integer("image_size", 336), inner.integer("patch_size", 14)
    whole = config.text("vision_feature_select_strategy", "default") == "full"
    facts = processor_facts(config)
    prepare = partial(_prepared, facts, scaling_of(facts), (size, patch, int(whole)))
    token = config.integer("image_token_id", config.integer("image_token_index", 32000))
    graph = partial(_graph, plain, layer, whole, text.integer("hidden_size"))
    return Model(architecture_of(text), plain, Vision(graph, prepare, token))


def _prepared(facts: Config, scaling: Scaling, sizes: tuple[int, int, int], image: Array) -> Pixels:
    size, patch, extra = sizes
    given = facts.values.get("size")
    if isinstance(given, dict) and "height" in given:
        high, wide = side(given, "height", size), side(given, "width", size)
    else:
        high, wide = shortest_edge(image, side(given, "shortest_edge", size))
    image = scaling.resized(image, high, wide)
    if facts.flag("do_center_crop", default=True):
        crop = facts.values.get("crop_size")
        image = center_crop(image, side(crop, "height", size), side(crop, "width", size))
    if image.shape[:2] != (size, size):
        raise facts.error(f"images become {list(image.shape[:2])}, the tower takes {size}")
    count = size // patch
    return Pixels({"pixels": scaling.numbers(image)}, count * count + extra, (count, count))


def _graph(checkpoint: Checkpoint, layer: int, whole: bool, width: int) -> ir.Model:
    inner = checkpoint.config.nested("vision_config")
    hidden = inner.integer("hidden_size", 1024)
    tower = Tower(
        hidden,
        inner.integer("num_attention_heads", 16),
        inner.integer("intermediate_size", 4096),
        inner.number("layer_norm_eps", 1e-5),
        inner.text("hidden_act", "quick_gelu"),
    )
    w = VisionWriter(checkpoint, tower)
    depth = inner.integer("num_hidden_layers", 24)
    x = _embedded(w, inner.integer("image_size", 336), inner.integer("patch_size", 14))
    for number in range(depth + 1 + layer if layer < 0 else layer):
        x = _layer(w, x, f"vision.encoder.layers.{number}")
    if not whole:
        ends = w.g.ints(1), w.g.ints(np.iinfo(np.int64).max), w.g.ints(1)
        x = w.g.op("Slice", x, *ends, name="patches")
    x = w.linear(x, "projector.linear_1", (width, hidden))
    activation = checkpoint.config.text("projector_hidden_act", "gelu")
    x = w.activated(x, activation, "projector.activated")
    x = w.linear(x, "projector.linear_2", (width, width))
    count = (inner.integer("image_size", 336) // inner.integer("patch_size", 14)) ** 2
    return w.finished(x, count + int(whole), width)


def _embedded(w: VisionWriter, size: int, patch: int) -> ir.Value:
    """Write patches behind the class embedding, with their positions."""
    hidden, count = w.tower.hidden, (size // patch) ** 2
    pixels = w.g.input("pixels", FLOAT, ["images", 3, size, size])
    name = "vision.embeddings"
    filters = w.weight(f"{name}.patch_embedding.weight", (hidden, 3, patch, patch))
    y = w.g.op("Conv", pixels, filters, name="patched", strides=[patch, patch])
    y = w.g.op("Reshape", y, w.g.ints(0, hidden, count), name="flat")
    y = w.g.op("Transpose", y, name="rows", perm=[0, 2, 1])
    y = w.g.op("Pad", y, w.g.ints(0, 1, 0, 0, 0, 0), name="begun")  # room for the class embedding

    def places() -> Array:
        table = w.checkpoint.tensor(f"{name}.position_embedding.weight").copy()
        table[0] += w.checkpoint.tensor(f"{name}.class_embedding").reshape(-1)
        return table

    w.weight(f"{name}.position_embedding.weight", (count + 1, hidden))  # checks the shape
    table = w.g.weight("vision.places", (count + 1, hidden), places)
    return w.norm(w.g.op("Add", y, table, name="placed"), "vision.pre_layrnorm")


def _layer(w: VisionWriter, x: ir.Value, name: str) -> ir.Value:
    wide = (w.tower.hidden, w.tower.hidden)
    y = w.norm(x, f"{name}.layer_norm1")
    parts = {role: w.linear(y, f"{name}.self_attn.{role}_proj", wide) for role in "qkv"}
    y = w.linear(w.attention(parts, name), f"{name}.self_attn.out_proj", wide)
    x = w.g.op("Add", x, y, name=f"{name}.attended")
    y = w.network(w.norm(x, f"{name}.layer_norm2"), f"{name}.mlp")
    return w.g.op("Add", x, y, name=f"{name}.out")
