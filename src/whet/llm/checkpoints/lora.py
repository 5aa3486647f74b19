"""LoRA adapters, as the library ``peft`` stores them, added to a checkpoint's weights when read.

``W' = W + s·B·A`` with ``s = alpha / r``, or ``alpha / √r`` where the adapter is rank-stabilised.
An adapted model is as fast as the model itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whet.errors import ModelError, UnsupportedError, nearest
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint, read_json
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.layered import Layered
from whet.llm.checkpoints.safetensors_reader import Stored, read_safetensors

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to one tensor: ``scale`` · ``b`` · ``a``, transposed where the tensor is.

    Where ``heads`` is not 0, halves of heads turn together in the adapter and neighbours in the
    tensor, as in GGUF files of Llamas: rows are put into that order.
    """

    a: Stored
    b: Stored
    scale: float
    transposed: bool
    heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is added."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.transposed else shape

    @property
    def rank(self) -> int:
        """Rows of ``a``."""
        return self.a.shape[0]

    def first(self) -> Array:
        """Return ``a`` [rank, in]."""
        return np.asarray(self.a.read(), np.float32)

    def second(self) -> Array:
        """Return ``scale`` · ``b`` [out, rank], rows in the order of the tensor."""
        found = np.float32(self.scale) * self.b.read()
        if self.heads:
            halves = found.reshape(self.heads, 2, -1, self.rank)
            found = halves.swapaxes(1, 2).reshape(found.shape)
        return np.asarray(found, np.float32)

    def added_to(self, tensor: Array) -> Array:
        """Return the tensor with the change."""
        change = self.second() @ self.first()
        return np.asarray(tensor + (change.T if self.transposed else change))


class Adapted(Layered):
    """A checkpoint with an adapter.

    Args:
        base: the checkpoint that the adapter was made for.
        adapter: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ModelError: a file is missing or damaged, or the adapter is for another model.
        UnsupportedError: it is no plain LoRA.
    """

    def __init__(self, base: Checkpoint, adapter: str | os.PathLike[str]) -> None:
        super().__init__(base)
        self._changes = adapter_changes(adapter, base)

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32, with what the adapter adds."""
        tensor = self._base.tensor(name)
        change = self._changes.get(name)
        return tensor if change is None else change.added_to(tensor)

    def block_format(self, name: str) -> str | None:
        """Return the format of a tensor in blocks; what the adapter changes is given as floats."""
        return None if name in self._changes else self._base.block_format(name)


def adapter_changes(adapter: str | os.PathLike[str], base: Checkpoint) -> dict[str, Change]:
    """Return what an adapter changes, by the names of the checkpoint's tensors.

    Raises:
        ModelError: a file is missing or damaged, or the adapter is for another model.
        UnsupportedError: it is no plain LoRA.
    """
    folder = Path(adapter)
    facts = Config(read_json(folder / "adapter_config.json"), str(folder / "adapter_config.json"))
    _check_kind(facts)
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError("the file is missing", where=str(file), hint="save it as safetensors")
    tensors = read_safetensors(file)
    found: dict[str, Change] = {}
    for name, a in tensors.items():
        if name.endswith(_A):
            module = name.removesuffix(_A)
            target = f"{module.removeprefix(_PREFIX)}.weight"
            b = tensors.get(module + _B)
            found[target] = _checked(facts, (a, b), target, base, str(file))
    left = [n for n in tensors if not n.endswith((_A, _B))]
    if left or 2 * len(found) != len(tensors):
        name = left[0] if left else "lora_B without lora_A"
        raise UnsupportedError(f"the adapter has {name!r}", where=str(file), hint="plain LoRA only")
    return found


def _check_kind(facts: Config) -> None:
    odd = [k for k in ("use_dora", "alora_invocation_tokens") if facts.values.get(k)]
    odd += [k for k in ("rank_pattern", "alpha_pattern", "modules_to_save") if facts.values.get(k)]
    kind = facts.text("peft_type", "LORA")
    if kind != "LORA" or odd or facts.text("bias", "none") != "none":
        what = odd[0] if odd else f"{kind} with bias {facts.text('bias', 'none')!r}"
        raise UnsupportedError(
            f"the adapter uses {what}", where=facts.where, hint="merge it with peft first"
        )


def _checked(
    facts: Config, pair: tuple[Stored, Stored | None], target: str, base: Checkpoint, where: str
) -> Change:
    a, b = pair
    if target not in base.names:
        raise ModelError(
            f"the adapter changes {target!r}, which the checkpoint does not have",
            where=where,
            hint=nearest(target, base.names),
        )
    alpha, rank = facts.number("lora_alpha", 8.0), facts.integer("r")
    scale = alpha / (rank**0.5 if facts.flag("use_rslora") else rank)
    if b is None or len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] > 0:
        raise ModelError(f"A and B of {target!r} do not fit together", where=where)
    heads = _turned_heads(base.config, target)
    change = Change(a, b, scale, facts.flag("fan_in_fan_out"), heads)
    if change.shape != base.shape(target):
        raise ModelError(
            f"{target!r} has shape {list(base.shape(target))}, the adapter {list(change.shape)}",
            where=where,
            hint="the adapter was made for another model",
        )
    return change


def _turned_heads(config: Config, target: str) -> int:
    """Return the heads of a tensor whose rows the file has in another order; 0 for as they are."""
    role = target.removesuffix("_proj.weight").rpartition(".self_attn.")[2]
    if role not in ("q", "k") or not config.flag("rope_interleaved"):
        return 0
    heads = config.integer("num_attention_heads")
    return heads if role == "q" else config.integer("num_key_value_heads", heads)
