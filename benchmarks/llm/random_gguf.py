"""A GGUF file of a Llama with random weights in blocks, the same bytes on every machine.

    python -m benchmarks.llm.random_gguf --type Q4_0 -o model.gguf

By default it has the shape of TinyLlama: 1.1 billion parameters. Speed does not depend on what the
weights are; that they are of a sensible size keeps logits numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whet.kernel.block_formats import FORMATS

Array = npt.NDArray[Any]

DEVIATION = 0.02
"""Standard deviation of the weights."""

TINY_LLAMA = {
    "hidden": 2048,
    "layers": 22,
    "heads": 32,
    "kv_heads": 4,
    "inner": 5632,
    "vocabulary": 32000,
}


def random_blocks(name: str, rows: int, depth: int, rng: np.random.Generator) -> Array:
    """Return rows of random blocks [row, bytes] of about the wanted deviation."""
    kind = FORMATS[name]
    data = rng.integers(0, 256, (rows, depth // kind.block, kind.group_bytes), np.uint8)
    spread = 2 ** {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q6_K": 6}.get(name, 5) / 12**0.5
    scale = DEVIATION / spread / (32 if kind.nested else 1)
    places = {"Q6_K": (208,)}.get(name, (0, 2) if kind.minimums else (0,))
    for place in places:
        half = np.float16(scale * (1 if place != 2 else 8))
        data[..., place : place + 2] = np.frombuffer(half.tobytes(), np.uint8)
    return data.reshape(rows, -1)


def tensors(shape: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return the matrices of a Llama: rows and depth by name."""
    hidden, inner = shape["hidden"], shape["inner"]
    narrow = hidden // shape["heads"] * shape["kv_heads"]
    found = dict.fromkeys(("token_embd", "output"), (shape["vocabulary"], hidden))
    for k in range(shape["layers"]):
        for name, size in {
            "attn_q": (hidden, hidden),
            "attn_k": (narrow, hidden),
            "attn_v": (narrow, hidden),
            "attn_output": (hidden, hidden),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }.items():
            found[f"blk.{k}.{name}"] = size
    return found


def write(path: Path, name: str, shape: dict[str, int], seed: int = 0) -> None:
    """Write the file under a temporary name, then under its own."""
    import gguf

    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["inner"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_context_length(2048)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_vocab_size(shape["vocabulary"])
    writer.add_tokenizer_model("no_vocab")
    rng, dtype = np.random.default_rng(seed), gguf.GGMLQuantizationType[name]
    ones = np.ones(shape["hidden"], np.float32)
    for tensor, (rows, depth) in tensors(shape).items():
        blocks = random_blocks(name, rows, depth, rng)
        writer.add_tensor(f"{tensor}.weight", blocks, raw_dtype=dtype)
    for k in range(shape["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{k}.{norm}.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--type", choices=sorted(FORMATS), default="Q8_0")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=TINY_LLAMA["layers"])
    arguments = parser.parse_args()
    write(arguments.output, arguments.type, {**TINY_LLAMA, "layers": arguments.layers})


if __name__ == "__main__":
    main()
