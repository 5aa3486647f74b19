"""Qwen2.5-VL: Qwen2-VL with norms of squares, gated networks, and windows in most layers."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.config import Config
from whet.llm.families.qwen2_vl import attended, embedded_patches, merged_patches, qwen_model
from whet.llm.graphs.vision_graph import Tower, VisionWriter
from whet.llm.images.patches import Patches, patch_places, prepared_patches
from whet.llm.images.vision import Model, Pixels


def qwen25_vl(checkpoint: Checkpoint) -> Model:
    """Return a Qwen2.5-VL for images; source: ``modeling_qwen2_5_vl.py`` of transformers."""
    inner = checkpoint.config.nested("vision_config")
    window = inner.integer("window_size", 112)

    def prepare(facts: Config, bounds: tuple[int, int], cut: Patches, image: Array) -> Pixels:
        found = prepared_patches(facts, bounds, cut, image)
        seen = _windows(found.grid, cut, window // cut.merged // cut.side)
        return replace(found, inputs={**found.inputs, "seen": seen})

    return qwen_model(checkpoint, inner.integer("hidden_size", 1280), prepare, _graph)


def _windows(grid: tuple[int, int], cut: Patches, size: int) -> Array:
    """Return which patches see which: those of a window of merged patches each other."""
    window = patch_places(*grid, cut.merged) // (cut.merged * max(size, 1))
    pairs: Array = (window[:, :, None] == window[:, None, :]).all(0)
    return pairs


def _graph(checkpoint: Checkpoint, cut: Patches, width: int) -> ir.Model:
    inner = checkpoint.config.nested("vision_config")
    tower = Tower(
        inner.integer("hidden_size", 1280),
        inner.integer("num_heads", 16),
        inner.integer("intermediate_size", 3420),
        1e-6,
        inner.text("hidden_act", "silu"),
    )
    w = VisionWriter(checkpoint, tower)
    x, turns = embedded_patches(w, cut)
    seen = w.g.input("seen", ir.DataType.BOOL, ["images", "patches", "patches"])
    seen = w.g.op("Unsqueeze", seen, w.g.ints(1), name="seen.heads")
    whole = inner.values.get("fullatt_block_indexes", (7, 15, 23, 31))
    for number in range(inner.integer("depth", 32)):
        name = f"vision.blocks.{number}"
        x = attended(w, x, turns, name, None if number in whole else seen)
        y = _network(w, w.norm(x, f"{name}.norm2"), f"{name}.mlp")
        x = w.g.op("Add", x, y, name=f"{name}.out")
    return merged_patches(w, x, cut, width)


def _network(w: VisionWriter, x: ir.Value, name: str) -> ir.Value:
    wide = (w.tower.inner, w.tower.hidden)
    gate = w.activated(w.linear(x, f"{name}.gate_proj", wide), w.tower.activation, f"{name}.open")
    up = w.linear(x, f"{name}.up_proj", wide)
    inner = w.g.op("Mul", gate, up, name=f"{name}.gated")
    return w.linear(inner, f"{name}.down_proj", wide[::-1])
