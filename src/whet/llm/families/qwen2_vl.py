"""Qwen2-VL: images of any size, rotary positions in two dimensions, neighbours merged by four."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from whet.llm.architecture import Array
from whet.llm.checkpoint import Checkpoint
from whet.llm.config import Config
from whet.llm.families.llama import qwen2
from whet.llm.graph import FLOAT
from whet.llm.image_resize import Scaling, processor_facts, scaling_of, snapped
from whet.llm.vision import Model, Pixels, Renamed, Vision, plain_name, text_config
from whet.llm.vision_graph import Tower, VisionWriter

_LEAST, _MOST = 56 * 56, 28 * 28 * 1280
_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class _Patches:
    """How an image is cut: sides of a patch, patches merged along a side, size of half a head."""

    side: int
    merged: int
    half: int


def qwen2_vl(checkpoint: Checkpoint) -> Model:
    """Return a Qwen2-VL for images; source: ``modeling_qwen2_vl.py`` of transformers."""
    config, plain = checkpoint.config, Renamed(checkpoint, plain_name)
    inner = config.nested("vision_config")
    text = text_config(config, config.values)
    text = Config({**text.values, "model_type": "qwen2"}, config.where)
    heads, hidden = inner.integer("num_heads", 16), inner.integer("embed_dim", 1280)
    patches = _Patches(
        inner.integer("patch_size", 14),
        inner.integer("spatial_merge_size", 2),
        hidden // heads // 2,
    )
    facts = processor_facts(config)
    sizes = facts.nested("size")
    bounds = (
        facts.integer("min_pixels", sizes.integer("shortest_edge", _LEAST)),
        facts.integer("max_pixels", sizes.integer("longest_edge", _MOST)),
    )
    prepare = partial(_prepared, scaling_of(facts), patches, bounds)
    graph = partial(_graph, plain, patches, text.integer("hidden_size"))
    token = config.integer("image_token_id", 151655)
    return Model(qwen2(text), plain, Vision(graph, prepare, token, turned=True))


def _prepared(scaling: Scaling, patches: _Patches, bounds: tuple[int, int], image: Array) -> Pixels:
    """Return the patches of an image, those that are merged one after another."""
    side, merged = patches.side, patches.merged
    high, wide = snapped(image, side * merged, *bounds)
    pixels = scaling.numbers(scaling.resized(image, high, wide))
    rows, columns = high // side // merged, wide // side // merged
    split = pixels.reshape(3, rows, merged, side, columns, merged, side)
    flat = split.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3 * side * side)
    places = np.indices((rows * merged, columns * merged)).reshape(2, rows, merged, columns, merged)
    places = places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    exponent = np.arange(0, patches.half, 2, dtype=np.float32) / np.float32(patches.half)
    inverse = (1.0 / np.float32(_THETA) ** exponent).astype(np.float32)
    angles = np.concatenate(list(places[..., None].astype(np.float32) * inverse), axis=-1)
    inputs = {"patches": np.ascontiguousarray(flat), "cos": np.cos(angles), "sin": np.sin(angles)}
    return Pixels(inputs, rows * columns, (rows, columns))


def _graph(checkpoint: Checkpoint, patches: _Patches, width: int) -> ir.Model:
    inner = checkpoint.config.nested("vision_config")
    hidden, heads = inner.integer("embed_dim", 1280), inner.integer("num_heads", 16)
    network = int(hidden * inner.number("mlp_ratio", 4))
    tower = Tower(hidden, heads, network, 1e-6, inner.text("hidden_act", "quick_gelu"))
    w = VisionWriter(checkpoint, tower)
    dims, area = ["images", "patches"], 3 * patches.side**2
    x = w.g.input("patches", FLOAT, [*dims, area])
    turns = [w.g.input(name, FLOAT, [*dims, patches.half]) for name in ("cos", "sin")]
    frames = inner.integer("temporal_patch_size", 2)
    x = _embedded(w, x, (frames, patches.side))
    for number in range(inner.integer("depth", 32)):
        x = _layer(w, x, turns, f"vision.blocks.{number}")
    x = w.norm(x, "vision.merger.ln_q")
    wide = hidden * patches.merged**2
    x = w.g.op("Reshape", x, w.ints(0, -1, wide), name="merged")
    x = w.linear(x, "vision.merger.mlp.0", (wide, wide))
    x = w.activated(x, "gelu", "vision.merger.activated")
    return w.finished(w.linear(x, "vision.merger.mlp.2", (width, wide)), "merged", width)


def _embedded(w: VisionWriter, x: ir.Value, sizes: tuple[int, int]) -> ir.Value:
    """Write the product with the patches' filters; an image is the same in all of its frames."""
    frames, side = sizes
    name, hidden = "vision.patch_embed.proj.weight", w.tower.hidden
    w.weight(name, (hidden, 3, frames, side, side))  # checks the shape

    def filters() -> Array:
        summed = w.checkpoint.tensor(name).sum(2, dtype=np.float32)
        return np.asarray(summed.reshape(hidden, -1).T)

    weight = w.g.weight("vision.filters", (3 * side * side, hidden), filters)
    return w.g.op("MatMul", x, weight, name="embedded")


def _layer(w: VisionWriter, x: ir.Value, turns: list[ir.Value], name: str) -> ir.Value:
    wide = (w.tower.hidden, w.tower.hidden)
    y = w.norm(x, f"{name}.norm1")
    parts = {
        role: w.linear(y, f"{name}.attn.qkv", wide, rows=k, of=3) for k, role in enumerate("qkv")
    }
    for role in "qk":
        parts[role] = w.g.op(
            "RotaryEmbedding",
            *(parts[role], *turns),
            name=f"{name}.{role}.turned",
            num_heads=w.tower.heads,
        )
    y = w.linear(w.attention(y, parts, name), f"{name}.attn.proj", wide)
    x = w.g.op("Add", x, y, name=f"{name}.attended")
    y = w.network(w.norm(x, f"{name}.norm2"), f"{name}.mlp")
    return w.g.op("Add", x, y, name=f"{name}.out")
