"""Encoder–decoders as two graphs: a source once, then a token of every sequence at a time.

The encoder gives what the decoder attends to in each of its layers, so that a step projects nothing
of the source again. Positions that depend on distance come in as scores, computed outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from whet.llm.architecture import Part, Parts
from whet.llm.checkpoints.checkpoint import Checkpoint, wrong_shape
from whet.llm.graphs.decoder import ACTIVATIONS
from whet.llm.graphs.graph import BOOL, FLOAT, INT64, Dims, GraphWriter

Work = Callable[[ir.Value], ir.Value]


@dataclass(frozen=True, slots=True)
class Stack:
    """The encoder or the decoder.

    Roles of the parts of its layers are ``self.q``, ``self.k``, ``self.v``, ``self.o`` and
    ``self.norm``, the same with ``cross``, then ``gate``, ``up``, ``down`` and ``mlp.norm``; all
    also with ``.bias``. Those of its own are ``norm``, ``positions``, ``conv1`` and ``conv2``.

    Attributes:
        layers: tensors by role.
        parts: its own tensors by role.
        relative: whether scores by distance are added in self-attention.
    """

    layers: tuple[Parts, ...]
    parts: Parts
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Seq2SeqShape:
    """An encoder–decoder.

    Attributes:
        family: name, as ``config.json`` has it under ``model_type``.
        vocabulary: number of tokens.
        hidden: width of the residual streams.
        heads: heads of attention.
        head_size: elements of a head.
        inner: width inside the feed-forward networks.
        context: tokens that a target may have.
        source: positions of a source that the model was made for; 0 for any number.
        encoder: what is done once.
        decoder: what is done for each token.
        parts: tensors of both: ``embedding``, ``head`` and ``head.bias``.
        norm: root mean square, or mean and variance.
        norm_first: whether norms stand in front of what they belong to.
        norm_eps: added to variances.
        activation: of the feed-forward networks.
        scale: factor of scores.
        embedding_scale: factor of embeddings.
        head_scale: factor of what the head reads.
        bands: frequencies of a source of sound; 0 for a source of tokens.
        start: first token of every target.
    """

    family: str
    vocabulary: int
    hidden: int
    heads: int
    head_size: int
    inner: int
    context: int
    source: int
    encoder: Stack
    decoder: Stack
    parts: Parts
    norm: Literal["rms", "layer"]
    norm_first: bool
    norm_eps: float
    activation: str
    scale: float
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    bands: int = 0
    start: int = 0


def encoder_part(shape: Seq2SeqShape, checkpoint: Checkpoint) -> ir.Model:
    """Return the graph of the encoder, with the keys and values that the decoder attends to.

    Raises:
        ModelError: a tensor is missing or has the wrong shape.
    """
    return _Writer(shape, checkpoint, GraphWriter()).encoder()


def decoder_part(shape: Seq2SeqShape, checkpoint: Checkpoint) -> ir.Model:
    """Return the graph of one step of the decoder: a token of each sequence.

    Raises:
        ModelError: a tensor is missing or has the wrong shape.
    """
    return _Writer(shape, checkpoint, GraphWriter()).decoder()


@dataclass(frozen=True, slots=True)
class _Writer:
    shape: Seq2SeqShape
    checkpoint: Checkpoint
    g: GraphWriter

    def encoder(self) -> ir.Model:
        """Write the encoder."""
        g, shape, stack = self.g, self.shape, self.shape.encoder
        x = self._heard(stack) if shape.bands else self._read(stack)
        mask = g.input("mask", FLOAT, ["texts", 1, 1, "source"])
        seen = mask
        if stack.relative:
            near = g.input("near", FLOAT, [1, shape.heads, "source", "source"])
            seen = g.op("Add", near, mask, name="seen")
        for number, parts in enumerate(stack.layers):
            name = f"encoder{number}"
            x = self._around(x, "self", parts, name, partial(self._mixed, parts, seen, name))
            x = self._network(x, parts, name)
        x = self._norm(x, "norm", stack.parts, "encoded")
        outputs = []
        for number, parts in enumerate(shape.decoder.layers):
            for role in "kv":
                y = self._linear(x, f"cross.{role}", parts, f"cross{role}.{number}")
                outputs.append(self._typed(y, ["texts", "source", self._wide]))
        return g.model(f"{shape.family}.encoder", outputs)

    def decoder(self) -> ir.Model:
        """Write one step of the decoder."""
        g, shape, stack = self.g, self.shape, self.shape.decoder
        ids = g.input("ids", INT64, ["texts", 1])
        x = self._embedded(ids)
        if "positions" in stack.parts:
            place = g.input("position", INT64, ["texts", 1])
            table = self._weight("positions", stack.parts)
            x = g.op("Add", x, g.op("Gather", table, place, name="place", axis=0), name="placed")
        mask = g.input("mask", FLOAT, ["texts", 1, 1, "source"])
        heads = shape.heads if stack.relative else 1
        seen = g.input("seen", FLOAT, ["texts", heads, 1, "keys"])
        here = g.input("here", BOOL, ["texts", "keys", 1])
        made: list[ir.Value] = []
        for number, parts in enumerate(stack.layers):
            name = f"decoder{number}"
            own = partial(self._remembered, parts, (seen, here), number, made)
            x = self._around(x, "self", parts, name, own)
            x = self._around(x, "cross", parts, name, partial(self._crossed, parts, mask, number))
            x = self._network(x, parts, name)
        x = self._norm(x, "norm", stack.parts, "decoded")
        if shape.head_scale != 1.0:
            x = g.op("Mul", x, self._number(shape.head_scale), name="decoded.scaled")
        y = self._linear(x, "head", shape.parts, "head")
        logits = g.op("Squeeze", y, self.g.ints(1), name="logits")
        outputs = [self._typed(logits, ["texts", shape.vocabulary])]
        return g.model(f"{shape.family}.decoder", [*outputs, *made])

    # -- inputs --------------------------------------------------------------------------------

    @property
    def _wide(self) -> int:
        return self.shape.heads * self.shape.head_size

    def _embedded(self, ids: ir.Value) -> ir.Value:
        g, factor = self.g, self.shape.embedding_scale
        table = self._weight("embedding", self.shape.parts)
        x = g.op("Gather", table, ids, name="embedded", axis=0)
        return x if factor == 1.0 else g.op("Mul", x, self._number(factor), name="embedded.scaled")

    def _read(self, stack: Stack) -> ir.Value:
        g = self.g
        x = self._embedded(g.input("ids", INT64, ["texts", "source"]))
        if "positions" not in stack.parts:
            return x
        places = g.input("positions", INT64, ["source"])
        rows = g.op("Gather", self._weight("positions", stack.parts), places, name="rows", axis=0)
        return g.op("Add", x, rows, name="placed")

    def _heard(self, stack: Stack) -> ir.Value:
        """Write what Whisper does with sound: two convolutions, the second of stride 2."""
        g, shape = self.g, self.shape
        x = g.input("sound", FLOAT, ["texts", shape.bands, 2 * shape.source])
        for number in (1, 2):
            role = f"conv{number}"
            weight, bias = (self._weight(r, stack.parts) for r in (role, f"{role}.bias"))
            x = g.op("Conv", x, weight, bias, name=role, pads=[1, 1], strides=[number])
            x = g.op("Gelu", x, name=f"{role}.activated")
        x = g.op("Transpose", x, name="heard", perm=[0, 2, 1])
        return g.op("Add", x, self._weight("positions", stack.parts), name="placed")

    # -- layers --------------------------------------------------------------------------------

    def _around(self, x: ir.Value, role: str, parts: Parts, name: str, work: Work) -> ir.Value:
        """Write something with its norm, in front or behind, and the residual."""
        first, name = self.shape.norm_first, f"{name}.{role}"
        y = work(self._norm(x, f"{role}.norm", parts, f"{name}.norm") if first else x)
        x = self.g.op("Add", x, y, name=f"{name}.added")
        return x if first else self._norm(x, f"{role}.norm", parts, f"{name}.norm")

    def _mixed(self, parts: Parts, seen: ir.Value, name: str, x: ir.Value) -> ir.Value:
        q, k, v = (self._linear(x, f"self.{r}", parts, f"{name}.{r}") for r in "qkv")
        return self._linear(self._attention(q, k, v, seen, name), "self.o", parts, f"{name}.o")

    def _remembered(
        self,
        parts: Parts,
        places: tuple[ir.Value, ir.Value],
        number: int,
        made: list[ir.Value],
        x: ir.Value,
    ) -> ir.Value:
        """Write self-attention over the tokens so far; this one's key and value go out alone.

        ``places`` are what is added to scores, which hides what no token stands at, and where in
        the cache the token belongs.
        """
        g, name = self.g, f"decoder{number}"
        seen, here = places
        q = self._linear(x, "self.q", parts, f"{name}.q")
        whole = []
        for role in "kv":
            past = g.input(f"past.{role}.{number}", FLOAT, ["texts", "keys", self._wide])
            new = self._linear(x, f"self.{role}", parts, f"{name}.{role}")
            made.append(
                self._typed(
                    g.op("Identity", new, name=f"new.{role}.{number}"), ["texts", 1, self._wide]
                )
            )
            whole.append(g.op("Where", here, new, past, name=f"{name}.{role}.whole"))
        y = self._attention(q, whole[0], whole[1], seen, name)
        return self._linear(y, "self.o", parts, f"{name}.o")

    def _crossed(self, parts: Parts, mask: ir.Value, number: int, x: ir.Value) -> ir.Value:
        g, name = self.g, f"decoder{number}.cross"
        q = self._linear(x, "cross.q", parts, f"{name}.q")
        dims: Dims = ["texts", "source", self._wide]
        k, v = (g.input(f"cross{role}.{number}", FLOAT, dims) for role in "kv")
        return self._linear(self._attention(q, k, v, mask, name), "cross.o", parts, f"{name}.o")

    def _attention(
        self, q: ir.Value, k: ir.Value, v: ir.Value, added: ir.Value | None, name: str
    ) -> ir.Value:
        heads = {"q_num_heads": self.shape.heads, "kv_num_heads": self.shape.heads}
        inputs = (q, k, v) if added is None else (q, k, v, added)
        return self.g.op(
            "Attention", *inputs, name=f"{name}.attention", scale=self.shape.scale, **heads
        )

    def _network(self, x: ir.Value, parts: Parts, name: str) -> ir.Value:
        op, attributes = ACTIVATIONS[self.shape.activation]

        def work(y: ir.Value) -> ir.Value:
            inner = self._linear(y, "gate" if "gate" in parts else "up", parts, f"{name}.inner")
            inner = self.g.op(op, inner, name=f"{name}.activated", **attributes)
            if "gate" in parts:
                up = self._linear(y, "up", parts, f"{name}.up")
                inner = self.g.op("Mul", inner, up, name=f"{name}.gated")
            return self._linear(inner, "down", parts, f"{name}.down")

        return self._around(x, "mlp", parts, name, work)

    # -- the rest ------------------------------------------------------------------------------

    def _norm(self, x: ir.Value, role: str, parts: Parts, name: str) -> ir.Value:
        if role not in parts:
            return x
        g, eps = self.g, self.shape.norm_eps
        scale = self._weight(role, parts)
        if self.shape.norm == "rms":
            return g.op("RMSNormalization", x, scale, name=name, axis=-1, epsilon=eps)
        bias = self._weight(f"{role}.bias", parts)
        return g.op("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=eps)

    def _linear(self, x: ir.Value, role: str, parts: Parts, name: str) -> ir.Value:
        g = self.g
        turned = g.op("Transpose", self._weight(role, parts), name=f"{name}.turned", perm=[1, 0])
        bias = f"{role}.bias"
        if bias not in parts:
            return g.op("MatMul", x, turned, name=name)
        y = g.op("MatMul", x, turned, name=f"{name}.product")
        return g.op("Add", y, self._weight(bias, parts), name=name)

    def _weight(self, role: str, parts: Parts) -> ir.Value:
        part = parts[role]
        shape = self.checkpoint.shape(part.name)
        wanted = _sizes(self.shape, role)
        if part.start or part.stop:
            shape = (part.stop - part.start, *shape[1:])
        if wanted is not None and tuple(shape) != wanted:
            raise wrong_shape(self.checkpoint, part.name, shape, wanted)
        read = self.checkpoint.tensor
        return self.g.weight(
            part.name + ("" if part == Part(part.name) else f"[{role}]"),
            tuple(shape),
            lambda: part.take(read(part.name)),
        )

    def _typed(self, value: ir.Value, dims: Dims) -> ir.Value:
        value.type, value.shape = ir.TensorType(FLOAT), ir.Shape(dims)
        return value

    def _number(self, value: float) -> ir.Value:
        return self.g.constant(f"number.{value:g}", np.array([value], np.float32))


def _sizes(shape: Seq2SeqShape, role: str) -> tuple[int, ...] | None:
    """Return the shape that the part of a role has to have; ``None`` where it may differ."""
    hidden, wide = shape.hidden, shape.heads * shape.head_size
    known: Mapping[str, tuple[int, ...]] = {
        **dict.fromkeys(("q", "k", "v"), (wide, hidden)),
        "o": (hidden, wide),
        "norm": (hidden,),
        "gate": (shape.inner, hidden),
        "up": (shape.inner, hidden),
        "down": (hidden, shape.inner),
        "embedding": (shape.vocabulary, hidden),
        "head": (shape.vocabulary, hidden),
    }
    return known.get(role.rsplit(".", 1)[-1])
