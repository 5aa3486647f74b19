"""Llamas of any size with random weights, and a tokenizer whose words are numbers.

python -m benchmarks.random_llm FOLDER --hidden 576 --layers 30
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model; the defaults are those of a model for tests."""

    hidden: int = 64
    inner: int = 176
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 131
    context: int = 256

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""
        h, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        layer = {
            "self_attn.q_proj": (h, h),
            "self_attn.k_proj": (kv, h),
            "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (self.inner, h),
            "mlp.up_proj": (self.inner, h),
            "mlp.down_proj": (h, self.inner),
            "input_layernorm": (h,),
            "post_attention_layernorm": (h,),
        }
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, h),
            "model.norm.weight": (h,),
            "lm_head.weight": (self.vocabulary, h),
        }
        for i in range(self.layers):
            found |= {f"model.layers.{i}.{n}.weight": shape for n, shape in layer.items()}
        return found


def write_llama(folder: Path, sizes: Sizes, seed: int = 1) -> Path:
    """Write a checkpoint folder, if it is not there already, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": 1e-6,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, sizes.vocabulary)
    header: dict[str, object] = {}
    place = 0
    for name, shape in sizes.shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    rng = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in sizes.shapes.values():
            values = rng.standard_normal(shape, dtype=np.float32)
            file.write((values * 0.1 + 1 if len(shape) == 1 else values * 2 / shape[1] ** 0.5).data)
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer whose words are ``t0``, ``t1`` and so on, and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"t{k}": k for k in range(vocabulary)}
    codec = Tokenizer(models.WordLevel(words, unk_token="t0"))
    codec.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    codec.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}t1 {{ m.content }} {% endfor %}t1"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


def main() -> None:
    """Write the model that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in Sizes.__dataclass_fields__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value.default)
    values = vars(parser.parse_args())
    print(write_llama(values.pop("folder"), Sizes(**values)))


if __name__ == "__main__":
    main()
