"""Speech and audio models, and time series."""

from __future__ import annotations

from typing import Any

from benchmarks.architectures.architecture import Architecture, Input
from benchmarks.architectures.text import BART, SIZE, VOCABULARY

WAVE = Input("input_values", "features", ("batch", "samples"))
WAVE_EXAMPLE = {"batch": 2, "samples": 1600}
WAVE_SIZES = (
    {"batch": 1, "samples": 1000},
    {"batch": 2, "samples": 1601},
    {"batch": 3, "samples": 2400},
)
WAVES = {
    **SIZE,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
BATCHES = ({"batch": 1}, {"batch": 3}, {"batch": 4})


def wave(model: str, /, **config: Any) -> Architecture:
    """Return an encoder of raw sound."""
    settings = {**WAVES, **config}
    return Architecture(model, "audio", settings, (WAVE,), WAVE_EXAMPLE, WAVE_SIZES)


AUDIO = {
    "wav2vec2": wave("Wav2Vec2ForCTC"),
    "hubert": wave("HubertModel"),
    "wavlm": wave("WavLMModel", num_buckets=8, max_bucket_distance=20),
    "unispeech_sat": wave("UniSpeechSatModel"),
    "data2vec_audio": wave("Data2VecAudioModel", conv_pos_kernel_size=15),
    "wav2vec2_conformer": wave("Wav2Vec2ConformerModel", position_embeddings_type="rotary",
                               conv_depthwise_kernel_size=7),
    "sew": wave("SEWModel", squeeze_factor=2),
    "whisper": Architecture(
        "WhisperModel", "audio",
        {**BART, "vocab_size": VOCABULARY, "num_mel_bins": 8, "max_source_positions": 20,
         "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
         "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None},
        (Input("input_features", "features", ("batch", 8, 40)),
         Input("decoder_input_ids", "tokens", ("batch", "target"), VOCABULARY),
         Input("decoder_attention_mask", "ones", ("batch", "target"))),
        {"batch": 2, "target": 6},
        ({"batch": 1, "target": 3}, {"batch": 3, "target": 9}, {"batch": 2, "target": 16}),
        call={"use_cache": False}),
    "speech_to_text": Architecture(
        "Speech2TextModel", "audio",
        {**BART, "vocab_size": VOCABULARY, "input_feat_per_channel": 8, "conv_channels": 16,
         "conv_kernel_sizes": [5, 5], "max_source_positions": 100, "max_target_positions": 40,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1},
        (Input("input_features", "features", ("batch", "frames", 8)),
         Input("decoder_input_ids", "tokens", ("batch", "target"), VOCABULARY)),
        {"batch": 2, "frames": 32, "target": 6},
        ({"batch": 1, "frames": 20, "target": 3}, {"batch": 3, "frames": 41, "target": 9},
         {"batch": 2, "frames": 64, "target": 16}),
        call={"use_cache": False}),
    "audio_spectrogram": Architecture(
        "ASTModel", "audio",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "patch_size": 4, "max_length": 24, "num_mel_bins": 16,
         "frequency_stride": 4, "time_stride": 4},
        (Input("input_values", "features", ("batch", 24, 16)),), {"batch": 2}, BATCHES),
    "wav2vec2_bert": Architecture(
        "Wav2Vec2BertModel", "audio",
        {**SIZE, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 7,
         "left_max_position_embeddings": 8, "right_max_position_embeddings": 4},
        (Input("input_features", "features", ("batch", "frames", 16)),),
        {"batch": 2, "frames": 12},
        ({"batch": 1, "frames": 7}, {"batch": 2, "frames": 16}, {"batch": 3, "frames": 21})),
    "encodec": Architecture(
        "EncodecModel", "audio",
        {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 16,
         "upsampling_ratios": [4, 2], "num_residual_layers": 1, "target_bandwidths": [1.5],
         "sampling_rate": 1000},
        (Input("input_values", "features", ("batch", 1, 400)),), {"batch": 2}, BATCHES,
        outputs=("audio_values",)),
    "patchtst": Architecture(
        "PatchTSTModel", "audio",
        {"num_input_channels": 3, "context_length": 32, "patch_length": 4, "patch_stride": 4,
         "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64, "num_hidden_layers": 2},
        (Input("past_values", "features", ("batch", 32, 3)),), {"batch": 2}, BATCHES),
    "patchtsmixer": Architecture(
        "PatchTSMixerModel", "audio",
        {"num_input_channels": 3, "context_length": 32, "patch_length": 4, "patch_stride": 4,
         "d_model": 16, "num_layers": 2},
        (Input("past_values", "features", ("batch", 32, 3)),), {"batch": 2}, BATCHES),
}  # fmt: skip
