"""Small Llamas trained on the spot on what is on every machine: Python's standard library.

    python -m benchmarks.llm.text_llama FOLDER

writes ``FOLDER/model`` and, of the same vocabulary and much smaller, ``FOLDER/draft``;
``FOLDER/seen.txt``, a part of what they were trained on, to calibrate with; and
``FOLDER/unseen.txt``, modules that they have not seen, to measure with. Needs ``torch``,
``transformers`` and ``tokenizers``. The same machine and versions give the same models.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, CONTEXT = 2048, 2048
TRAINING_BYTES, UNSEEN_BYTES, SEEN_BYTES = 6_000_000, 60_000, 60_000
EVERY = 12
"""Of so many modules one is kept from training."""

TEMPLATE = (
    "{% for m in messages %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model, and how it is trained: ``batch`` windows of ``window`` tokens a step."""

    hidden: int
    layers: int
    steps: int
    rate: float
    batch: int = 8
    window: int = 128


def texts() -> tuple[str, str]:
    """Return what is trained on and what is not: modules of the standard library, in order."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    files += sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*/*.py"))
    files = [f for f in files if "site-packages" not in f.parts and "idlelib" not in f.parts]
    read = [f.read_text(encoding="utf-8", errors="replace") for f in files]
    unseen = "".join(t for k, t in enumerate(read) if k % EVERY == 0)
    seen = "".join(t for k, t in enumerate(read) if k % EVERY)
    return seen[:TRAINING_BYTES], unseen[:UNSEEN_BYTES]


def write_tokenizer(folder: Path, text: str) -> Any:
    """Train a byte-level tokenizer, write it with a chat template, and return it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    codec = Tokenizer(models.BPE())
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    codec.train_from_iterator([text], trainer)
    for name in ("model", "draft"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        codec.save(str(folder / name / "tokenizer.json"))
        facts = {"chat_template": TEMPLATE, "eos_token": "<end>"}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(facts))
    return codec


def train(folder: Path, recipe: Recipe, tokens: np.ndarray) -> float:
    """Train a Llama, write it, and return the mean loss of its last 20 steps."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)  # others may compute: threads that wait for each other crawl
    config = LlamaConfig(
        hidden_size=recipe.hidden, intermediate_size=recipe.hidden * 11 // 4,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.hidden // 64,
        num_key_value_heads=max(recipe.hidden // 192, 1), vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    data = torch.tensor(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1
    )
    losses: list[float] = []
    start = time.monotonic()
    for number in range(recipe.steps):
        places = torch.randint(0, len(data) - recipe.window - 1, (recipe.batch,)).tolist()
        rows = torch.stack([data[p : p + recipe.window] for p in places])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if number % 25 == 24:
            seconds = time.monotonic() - start
            print(f"{folder.name}: step {number + 1}, loss {losses[-1]:.3f}, {seconds:.0f} s")
    model.save_pretrained(folder)
    return float(np.mean(losses[-20:]))


def main() -> None:
    """Train and write both models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draft-hidden", type=int, default=128)
    parser.add_argument("--draft-steps", type=int, default=900)
    given = parser.parse_args()
    seen, unseen = texts()
    codec = write_tokenizer(given.folder, seen)
    (given.folder / "seen.txt").write_text(seen[-SEEN_BYTES:])
    (given.folder / "unseen.txt").write_text(unseen)
    tokens = np.array(codec.encode(seen).ids, np.int64)
    print(f"{len(seen)} characters became {len(tokens)} tokens")
    recipes = {
        "draft": Recipe(given.draft_hidden, 2, given.draft_steps, 4e-3),
        "model": Recipe(given.hidden, given.layers, given.steps, 1.5e-3),
    }
    for name, recipe in recipes.items():
        print(f"{name}: loss {train(given.folder / name, recipe, tokens):.3f}", flush=True)


if __name__ == "__main__":
    main()
