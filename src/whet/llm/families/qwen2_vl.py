"""Qwen2-VL: images of any size, rotary positions in two dimensions, neighbours merged by four."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.config import Config
from whet.llm.families.llama import qwen2
from whet.llm.graphs.graph import FLOAT
from whet.llm.graphs.vision_graph import Tower, VisionWriter
from whet.llm.images.image_resize import processor_facts
from whet.llm.images.patches import Patches, prepared_patches
from whet.llm.images.vision import Model, Pixels, Renamed, Vision, plain_name, text_config

_LEAST, _MOST = 56 * 56, 28 * 28 * 1280


def qwen2_vl(checkpoint: Checkpoint) -> Model:
    """Return a Qwen2-VL for images; source: ``modeling_qwen2_vl.py`` of transformers."""
    inner = checkpoint.config.nested("vision_config")
    hidden = inner.integer("embed_dim", 1280)
    return qwen_model(checkpoint, hidden, prepared_patches, _graph)


def qwen_model(
    checkpoint: Checkpoint,
    hidden: int,
    prepare: Callable[[Config, tuple[int, int], Patches, Array], Pixels],
    graph: Callable[[Checkpoint, Patches, int], ir.Model],
) -> Model:
    """Return a model of patches in front of a Qwen 2 whose positions are of rows and columns.

    Args:
        checkpoint: what it is made of.
        hidden: width of the tower.
        prepare: makes an image ready, given the processor's facts and bounds of its pixels.
        graph: writes the tower, given the width of the language model.
    """
    config, plain = checkpoint.config, Renamed(checkpoint, plain_name)
    inner, text = config.nested("vision_config"), text_config(config, config.values)
    text = Config({**text.values, "model_type": "qwen2"}, config.where)
    half = hidden // inner.integer("num_heads", 16) // 2
    cut = Patches(inner.integer("patch_size", 14), inner.integer("spatial_merge_size", 2), half)
    facts = processor_facts(config)
    sizes = facts.nested("size")
    bounds = (
        facts.integer("min_pixels", sizes.integer("shortest_edge", _LEAST)),
        facts.integer("max_pixels", sizes.integer("longest_edge", _MOST)),
    )
    vision = Vision(
        partial(graph, plain, cut, text.integer("hidden_size")),
        partial(prepare, facts, bounds, cut),
        config.integer("image_token_id", 151655),
        turned=True,
    )
    return Model(qwen2(text), plain, vision)


def _graph(checkpoint: Checkpoint, cut: Patches, width: int) -> ir.Model:
    inner = checkpoint.config.nested("vision_config")
    hidden, heads = inner.integer("embed_dim", 1280), inner.integer("num_heads", 16)
    network = int(hidden * inner.number("mlp_ratio", 4))
    tower = Tower(hidden, heads, network, 1e-6, inner.text("hidden_act", "quick_gelu"))
    w = VisionWriter(checkpoint, tower)
    x, turns = embedded_patches(w, cut)
    for number in range(inner.integer("depth", 32)):
        name = f"vision.blocks.{number}"
        x = attended(w, x, turns, name)
        y = w.network(w.norm(x, f"{name}.norm2"), f"{name}.mlp")
        x = w.g.op("Add", x, y, name=f"{name}.out")
    return merged_patches(w, x, cut, width)


def embedded_patches(w: VisionWriter, cut: Patches) -> tuple[ir.Value, list[ir.Value]]:
    """Write the product with the patches' filters; return it, and cosines and sines.

    An image is the same in all of a filter's frames, so that these are summed.
    """
    inner, dims = w.checkpoint.config.nested("vision_config"), ["images", "patches"]
    x = w.g.input("patches", FLOAT, [*dims, 3 * cut.side**2])
    turns = [w.g.input(name, FLOAT, [*dims, cut.half]) for name in ("cos", "sin")]
    name, hidden = "vision.patch_embed.proj.weight", w.tower.hidden
    frames = inner.integer("temporal_patch_size", 2)
    w.weight(name, (hidden, 3, frames, cut.side, cut.side))  # checks the shape

    def filters() -> Array:
        summed = w.checkpoint.tensor(name).sum(2, dtype=np.float32)
        return np.asarray(summed.reshape(hidden, -1).T)

    weight = w.g.weight("vision.filters", (3 * cut.side**2, hidden), filters)
    return w.g.op("MatMul", x, weight, name="embedded"), turns


def attended(
    w: VisionWriter, x: ir.Value, turns: list[ir.Value], name: str, seen: ir.Value | None = None
) -> ir.Value:
    """Write the first half of a layer: attention, with what came in added."""
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
    y = w.linear(w.attention(parts, name, seen), f"{name}.attn.proj", wide)
    return w.g.op("Add", x, y, name=f"{name}.attended")


def merged_patches(w: VisionWriter, x: ir.Value, cut: Patches, width: int) -> ir.Model:
    """Write the merger, and return the whole model."""
    x = w.norm(x, "vision.merger.ln_q")
    wide = w.tower.hidden * cut.merged**2
    x = w.g.op("Reshape", x, w.g.ints(0, -1, wide), name="merged")
    x = w.linear(x, "vision.merger.mlp.0", (wide, wide))
    x = w.activated(x, "gelu", "vision.merger.activated")
    return w.finished(w.linear(x, "vision.merger.mlp.2", (width, wide)), "merged", width)
