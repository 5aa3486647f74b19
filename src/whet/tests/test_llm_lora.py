"""LoRA adapters: what a model gives whose weights were changed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from whet.errors import ModelError, UnsupportedError
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.lora import Adapted
from whet.tests.golden_models import write_tensors
from whet.tests.tiny_models import write_checkpoint

CHANGED = {"layers.0.self_attn.q_proj": (64, 64), "layers.1.mlp.down_proj": (64, 112)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TensorFolder:
    return TensorFolder(write_checkpoint(tmp_path_factory.mktemp("base"), "llama"))


def write_adapter(
    folder: Path,
    *,
    rank: int = 3,
    seed: int = 2,
    changed: Mapping[str, tuple[int, int]] = MappingProxyType(CHANGED),
    **facts: Any,
) -> dict[str, np.ndarray]:
    """Write an adapter and return its tensors."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (out, into) in changed.items():
        prefix = f"base_model.model.{'' if name == 'lm_head' else 'model.'}{name}"
        tensors[f"{prefix}.lora_A.weight"] = rng.standard_normal((rank, into)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = rng.standard_normal((out, rank)).astype(np.float32)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", **facts}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return tensors


@pytest.mark.parametrize("stable", [False, True])
def test_weights_are_changed(base: TensorFolder, tmp_path: Path, stable: bool) -> None:
    tensors = write_adapter(tmp_path, use_rslora=stable)
    adapted = Adapted(base, tmp_path)
    assert adapted.names == base.names
    scale = 6 / 3**0.5 if stable else 2.0
    for name in base.names:
        wanted = base.tensor(name).astype(np.float64)
        short = name.removeprefix("model.").removesuffix(".weight")
        if short in CHANGED:
            prefix = f"base_model.model.model.{short}"
            a, b = (tensors[f"{prefix}.lora_{k}.weight"].astype(np.float64) for k in "AB")
            wanted = wanted + scale * b @ a
        assert np.abs(adapted.tensor(name) - wanted).max() < 1e-4
        assert adapted.shape(name) == base.shape(name)


def test_rows_are_in_the_order_of_a_gguf_file(base: TensorFolder, tmp_path: Path) -> None:
    """A Llama of GGUF turns neighbours together, the adapter was made for halves."""
    pytest.importorskip("gguf", reason="it writes the file")
    from whet.llm.checkpoints.gguf_file import GgufFile
    from whet.tests.test_llm_gguf import permuted, quantised_llama

    write_adapter(tmp_path)
    adapted = Adapted(base, tmp_path)
    path = quantised_llama(base.folder, "F32")
    other = Adapted(GgufFile(path), tmp_path)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        wanted = adapted.tensor(name)
        wanted = permuted(wanted, 4) if "q_proj" in name else wanted
        assert np.array_equal(other.tensor(name), wanted)
    path.unlink()


def test_transposed_tensors(base: TensorFolder, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 112)), rng.standard_normal((64, 2))
    name = "base_model.model.model.layers.0.mlp.up_proj"
    pair = {f"{name}.lora_A.weight": b.T.copy(), f"{name}.lora_B.weight": a.T.copy()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "fan_in_fan_out": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(
        tmp_path / "adapter_model.safetensors", {k: v.astype(np.float32) for k, v in pair.items()}
    )
    plain = Adapted(base, tmp_path).tensor("model.layers.0.mlp.up_proj.weight")
    assert plain.shape == (112, 64)
    with pytest.raises(ModelError, match="has shape"):
        config["fan_in_fan_out"] = True
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        Adapted(base, tmp_path)


def test_what_does_not_fit_is_refused(base: TensorFolder, tmp_path: Path) -> None:
    tensors = write_adapter(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, text in (
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UnsupportedError, match=text):
            Adapted(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    first = next(iter(tensors))
    for wrong, kind in (
        ({first.replace("layers.0", "layers.7"): tensors[first]}, ModelError),
        ({first: tensors[first][:, :5].copy()}, ModelError),
        ({"lm_head.bias": tensors[first]}, UnsupportedError),
    ):
        write_tensors(tmp_path / "adapter_model.safetensors", {**tensors, **wrong})
        with pytest.raises(kind):
            Adapted(base, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="missing"):
        Adapted(base, tmp_path)
