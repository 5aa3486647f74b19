"""Image classifiers, detectors, segmenters, depth and video models."""

from __future__ import annotations

from typing import Any

from benchmarks.architectures.architecture import Architecture, Input, Sizes

PATCHED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
}
BATCHES: tuple[Sizes, ...] = ({"batch": 1}, {"batch": 3}, {"batch": 4})
SQUARE = Input("pixel_values", "features", ("batch", 3, 32, 32))
FREE = Input("pixel_values", "features", ("batch", 3, "height", "width"))
FREE_EXAMPLE = {"batch": 2, "height": 64, "width": 64}
FREE_SIZES = (
    {"batch": 1, "height": 64, "width": 96},
    {"batch": 2, "height": 96, "width": 64},
    {"batch": 3, "height": 128, "width": 128},
)
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}


def fixed(model: str, /, **config: Any) -> Architecture:
    """Return a model of images of one size, in batches of any."""
    return Architecture(model, "vision", config, (SQUARE,), {"batch": 2}, BATCHES)


def patched(model: str, /, **config: Any) -> Architecture:
    """Return a vision transformer with 16 patches."""
    return fixed(model, **PATCHED, **config)


def free(model: str, /, **config: Any) -> Architecture:
    """Return a model of images of any size."""
    return Architecture(model, "vision", config, (FREE,), FREE_EXAMPLE, FREE_SIZES)


SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]}
RESNET = {"embedding_size": 8, "layer_type": "basic", **STAGES}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 6,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet", **RESNET, "out_features": ["stage4"],
    },
}  # fmt: skip
MASKS = {"neck_hidden_sizes": [8, 16, 16, 32], "backbone_out_indices": [0, 1, 2, 3]}

VISION = {
    "vit": patched("ViTModel"),
    "deit": patched("DeiTModel"),
    "beit": patched("BeitModel", use_absolute_position_embeddings=True),
    "data2vec_vision": patched("Data2VecVisionModel", use_relative_position_bias=True),
    "dinov2": patched("Dinov2Model"),
    "dinov3_vit": patched("DINOv3ViTModel"),
    "ijepa": patched("IJepaModel"),
    "vit_msn": patched("ViTMSNModel"),
    "yolos": fixed(
        "YolosForObjectDetection", **{**PATCHED, "image_size": [32, 32]}, num_detection_tokens=4
    ),
    "dpt": fixed("DPTForDepthEstimation", **{**PATCHED, "num_hidden_layers": 4}, **MASKS,
                 fusion_hidden_size=16, backbone_config=None, is_hybrid=False),
    "swin": fixed("SwinModel", window_size=4, **SWIN),
    "swinv2": fixed("Swinv2Model", window_size=4, **SWIN),
    "hiera": fixed("HieraModel", image_size=[32, 32], embed_dim=16, depths=[1, 1, 1],
                   num_heads=[1, 2, 4], patch_size=[3, 3], patch_stride=[2, 2],
                   patch_padding=[1, 1], query_stride=[2, 2], num_query_pool=2,
                   masked_unit_size=[4, 4]),
    "levit": fixed("LevitModel", image_size=32, hidden_sizes=[16, 24, 32],
                   num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[4, 4, 4]),
    "convnext": free("ConvNextModel", **STAGES),
    "convnextv2": free("ConvNextV2Model", **STAGES),
    "resnet": free("ResNetModel", **RESNET),
    "regnet": free("RegNetModel", embedding_size=8, groups_width=8, **STAGES),
    "mobilenet_v1": free("MobileNetV1Model", depth_multiplier=0.25, min_depth=8),
    "mobilenet_v2": free("MobileNetV2Model", depth_multiplier=0.25, min_depth=8),
    "efficientnet": free("EfficientNetModel", width_coefficient=0.25, depth_coefficient=0.25,
                         hidden_dim=320),
    "mobilevit": fixed("MobileViTModel", hidden_sizes=[16, 20, 24],
                      neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16], num_attention_heads=2),
    "poolformer": free("PoolFormerModel", **STAGES),
    "segformer": free("SegformerForSemanticSegmentation", **STAGES, decoder_hidden_size=16,
                      num_attention_heads=[1, 2, 3, 4], num_labels=5),
    "pvt": fixed("PvtModel", image_size=32, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                 num_attention_heads=[1, 2, 3, 4]),
    "pvt_v2": free("PvtV2Model", **STAGES, num_attention_heads=[1, 2, 3, 4]),
    "focalnet": free("FocalNetModel", image_size=64, patch_size=4, embed_dim=16, depths=[1, 1],
                     hidden_sizes=[16, 32], focal_levels=[2, 2], focal_windows=[3, 3]),
    "cvt": free("CvtModel", embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "bit": free("BitModel", embedding_size=8, num_groups=4, **STAGES),
    "hgnet_v2": free("HGNetV2ForImageClassification", stem_channels=[3, 8, 8], **STAGES,
                     stage_in_channels=[8, 16, 24, 32], stage_mid_channels=[8, 8, 8, 8],
                     stage_out_channels=[16, 24, 32, 32], stage_num_blocks=[1, 1, 1, 1],
                     stage_numb_of_layers=[2, 2, 2, 2]),
    "detr": Architecture("DetrForObjectDetection", "vision", DETR, (FREE,), FREE_EXAMPLE,
                         FREE_SIZES, outputs=("logits", "pred_boxes")),
    "table_transformer": Architecture(
        "TableTransformerForObjectDetection", "vision", DETR, (FREE,), FREE_EXAMPLE, FREE_SIZES,
        outputs=("logits", "pred_boxes")),
    "swin2sr": fixed("Swin2SRForImageSuperResolution", image_size=32, window_size=8, embed_dim=16,
                     depths=[1, 1], num_heads=[2, 2], upscale=2),
    "videomae": Architecture(
        "VideoMAEModel", "vision", {**PATCHED, "num_frames": 4, "tubelet_size": 2},
        (Input("pixel_values", "features", ("batch", 4, 3, 32, 32)),), {"batch": 2}, BATCHES),
    "timesformer": Architecture(
        "TimesformerModel", "vision", {**PATCHED, "num_frames": 4},
        (Input("pixel_values", "features", ("batch", 4, 3, 32, 32)),), {"batch": 2}, BATCHES),
}  # fmt: skip
