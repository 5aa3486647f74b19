"""What a decoder is made of: sizes, norms, positions, and the tensors that its checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from whet.errors import InputError

Array = npt.NDArray[Any]

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """Where the checkpoint holds a tensor: ``out`` × ``in`` for matrices, ``out`` for vectors.

    Attributes:
        name: the tensor's name.
        start: first of the rows that are meant.
        stop: the row behind the last; 0 for all.
        transposed: whether the tensor is stored as ``in`` × ``out``.
        thirds: heads, and which of query, key and value, where each head's three lie together.
        plus: added to every element; Gemma's norms keep their weights less 1.
    """

    name: str
    start: int = 0
    stop: int = 0
    transposed: bool = False
    thirds: tuple[int, int] | None = None
    plus: float = 0.0

    def take(self, tensor: Array) -> Array:
        """Return the part of the tensor that is meant."""
        found = tensor.T if self.transposed else tensor
        if self.stop:
            found = found[self.start : self.stop]
        if self.thirds is not None:
            heads, which = self.thirds
            found = found.reshape(heads, 3, -1, *found.shape[1:])[:, which]
            found = found.reshape(-1, *found.shape[2:])
        return found + np.float32(self.plus) if self.plus else found


Parts = Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions.

    Attributes:
        theta: base of the angles.
        size: elements of a head that are turned.
        interleaved: whether neighbours are turned together, not halves.
        factor: positions are divided by it; 1 for none.
        llama3: low and high frequency factor and original length of Llama 3's scaling, or ``None``.
        divisors: what each frequency is divided by; none for 1.
        long: a number of positions, and the divisors that tables of more positions have instead.
        magnitude: factor of cosines and sines.
        sections: how many frequencies turn by time, row and column; none where there is one
            position.
    """

    theta: float
    size: int
    interleaved: bool = False
    factor: float = 1.0
    llama3: tuple[float, float, int] | None = None
    divisors: tuple[float, ...] = ()
    long: tuple[int, tuple[float, ...]] = (0, ())
    magnitude: float = 1.0
    sections: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Experts:
    """A feed-forward network of several, of which each token uses a few.

    Roles of its parts are ``router``, ``expert0.gate``, ``expert0.up``, ``expert0.down`` and so on;
    with a shared expert ``shared.gate``, ``shared.up``, ``shared.down`` and ``shared.router``.

    Attributes:
        count: experts to choose from.
        chosen: experts that a token uses.
        inner: width inside an expert.
        normalised: whether the weights of those chosen are scaled to a sum of 1.
        shared: width inside the expert that all tokens use; 0 for none.
    """

    count: int
    chosen: int
    inner: int
    normalised: bool
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the positions that it sees, its rotary positions, and its tensors by role."""

    parts: Parts
    rope: Rope | None = None
    window: int = 0
    experts: Experts | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder.

    Roles of a layer's parts are ``q``, ``k``, ``v``, ``o``, ``gate``, ``up`` and ``down``, also
    with ``.bias``; ``attention_norm`` and ``mlp_norm`` before, ``attention_post_norm`` and
    ``mlp_post_norm`` behind; ``q_norm`` and ``k_norm``. Roles of the model's own are ``embedding``,
    ``positions``, ``norm`` and ``head``. Of norms, ``.bias`` too. What has no part is left out.

    Attributes:
        family: name, as ``config.json`` has it under ``model_type``.
        vocabulary: number of tokens.
        hidden: width of the residual stream.
        heads: heads of queries.
        kv_heads: heads of keys and values.
        head_size: elements of a head.
        inner: width inside the feed-forward network.
        context: positions that the model was made for.
        layers: what differs from layer to layer.
        parts: the model's own tensors by role.
        norm: root mean square or mean and variance.
        norm_eps: added to the variance.
        bare_norm: whether norms have no weights.
        activation: of the feed-forward network.
        parallel: whether attention and feed-forward network read the same input.
        full_norms: whether ``q_norm`` and ``k_norm`` go over all heads together.
        scale: factor of scores.
        score_softcap: scores are capped softly at it; 0 for not.
        logit_softcap: logits are capped softly at it; 0 for not.
        embedding_scale: factor of embeddings.
        clip: queries, keys and values are limited to it; 0 for not.
        pictures: whether tokens may be features of images.
    """

    family: str
    vocabulary: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    context: int
    layers: tuple[Layer, ...]
    parts: Parts
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    bare_norm: bool = False
    activation: str = "silu"
    parallel: bool = False
    full_norms: bool = False
    scale: float = 0.0
    score_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    clip: float = 0.0
    pictures: bool = False

    def checked_context(self, wanted: int) -> int:
        """Return the tokens that a sequence may have: what is wanted, or by default at most 4096.

        Raises:
            InputError: more are wanted than the model was made for.
        """
        context = wanted or min(self.context, DEFAULT_CONTEXT)
        if not 0 < context <= self.context:
            raise InputError(
                f"context is {wanted}, the model was made for {self.context}",
                hint="give at most that",
            )
        return context

    @property
    def turned(self) -> bool:
        """Whether positions are of time, row and column."""
        return any(layer.rope is not None and layer.rope.sections for layer in self.layers)
