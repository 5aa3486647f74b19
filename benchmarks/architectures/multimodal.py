"""Models that read text and images, or boxes on a page."""

from __future__ import annotations

from typing import Any

from benchmarks.architectures.architecture import Architecture, Input, Modality
from benchmarks.architectures.text import EXAMPLE, IDS, MASK, SIZE, SIZES, VOCABULARY
from benchmarks.architectures.vision import PATCHED, SQUARE

PAIR_IDS = Input("input_ids", "tokens", ("texts", "sequence"), VOCABULARY)
PAIR_MASK = Input("attention_mask", "mask", ("texts", "sequence"))
PAIR_EXAMPLE = {"batch": 2, "texts": 3, "sequence": 8}
PAIR_SIZES = (
    {"batch": 1, "texts": 4, "sequence": 5},
    {"batch": 3, "texts": 2, "sequence": 11},
    {"batch": 2, "texts": 5, "sequence": 16},
)
TOWER_TEXT = {**SIZE, "projection_dim": 16}
TOWER_IMAGE = {**PATCHED, "projection_dim": 16}


def towers(model: str, modality: Modality = "multimodal", /, **config: Any) -> Architecture:
    """Return a pair of encoders whose outputs are compared."""
    settings = {"text_config": TOWER_TEXT, "vision_config": TOWER_IMAGE, "projection_dim": 16}
    return Architecture(
        model, modality, {**settings, **config}, (PAIR_IDS, SQUARE, PAIR_MASK), PAIR_EXAMPLE,
        PAIR_SIZES, outputs=("logits_per_image", "text_embeds", "image_embeds"),
    )  # fmt: skip


def reader(model: str, /, **config: Any) -> Architecture:
    """Return a model of tokens together with one image each."""
    settings = {**SIZE, "image_size": 32, "patch_size": 8, **config}
    return Architecture(
        model, "multimodal", settings, (IDS, MASK, SQUARE), EXAMPLE, SIZES
    )  # fmt: skip


BOX = Input("bbox", "boxes", ("batch", "sequence", 4))
PAGE = {"max_2d_position_embeddings": 101, "coordinate_size": 6, "shape_size": 4}

MULTIMODAL = {
    "clip": towers("CLIPModel"),
    "siglip": towers("SiglipModel", text_config={**TOWER_TEXT, "projection_size": 32}),
    "chinese_clip": towers("ChineseCLIPModel"),
    "altclip": towers(
        "AltCLIPModel",
        text_config={**TOWER_TEXT, "project_dim": 16, "max_position_embeddings": 70},
    ),
    "metaclip_2": towers("MetaClip2Model"),
    "clip_text": Architecture(
        "CLIPTextModelWithProjection", "text", TOWER_TEXT, (IDS, MASK), EXAMPLE, SIZES
    ),
    "clip_vision": Architecture(
        "CLIPVisionModelWithProjection", "vision", TOWER_IMAGE, (SQUARE,), {"batch": 2},
        ({"batch": 1}, {"batch": 3}, {"batch": 4}),
    ),
    "owlvit": Architecture(
        "OwlViTVisionModel", "vision", PATCHED, (SQUARE,), {"batch": 2},
        ({"batch": 1}, {"batch": 3}, {"batch": 4}),
    ),
    "blip_vision": Architecture(
        "BlipVisionModel", "vision", PATCHED, (SQUARE,), {"batch": 2},
        ({"batch": 1}, {"batch": 3}, {"batch": 4}),
    ),
    "bridgetower": Architecture(
        "BridgeTowerModel", "multimodal",
        {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
         "text_config": {**SIZE, "max_position_embeddings": 70},
         "vision_config": {**PATCHED, "hidden_size": 64}},
        (IDS, MASK, SQUARE), EXAMPLE, SIZES,
    ),
    "git": reader("GitModel", vision_config=PATCHED),
    "layoutlmv3": Architecture(
        "LayoutLMv3Model", "multimodal",
        {**SIZE, **PAGE, "max_position_embeddings": 70, "visual_embed": False},
        (IDS, BOX, MASK), EXAMPLE, SIZES,
    ),
    "lilt": Architecture(
        "LiltModel", "multimodal",
        {**SIZE, "max_position_embeddings": 70, "max_2d_position_embeddings": 101,
         "channel_shrink_ratio": 2, "hidden_size": 48},
        (IDS, BOX, MASK), EXAMPLE, SIZES,
    ),
    "lxmert": Architecture(
        "LxmertModel", "multimodal",
        {**SIZE, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16,
         "num_qa_labels": 4, "num_object_labels": 4, "num_attr_labels": 4},
        (IDS, Input("visual_feats", "features", ("batch", "objects", 16)),
         Input("visual_pos", "features", ("batch", "objects", 4)), MASK),
        {**EXAMPLE, "objects": 5}, tuple({**s, "objects": s["batch"] + 2} for s in SIZES),
    ),
    "visual_bert": Architecture(
        "VisualBertModel", "multimodal", {**SIZE, "visual_embedding_dim": 16},
        (IDS, MASK, Input("visual_embeds", "features", ("batch", "objects", 16)),
         Input("visual_attention_mask", "ones", ("batch", "objects"))),
        {**EXAMPLE, "objects": 5}, tuple({**s, "objects": s["batch"] + 2} for s in SIZES),
    ),
    "clap_text": Architecture(
        "ClapTextModelWithProjection", "text",
        {**SIZE, "max_position_embeddings": 70, "projection_dim": 16}, (IDS, MASK), EXAMPLE, SIZES,
    ),
}  # fmt: skip
