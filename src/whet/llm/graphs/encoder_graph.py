"""The graph of an encoder: padded texts in, a vector for every token out, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.llm.checkpoints.checkpoint import Checkpoint, wrong_shape
from whet.llm.graphs.decoder import ACTIVATIONS
from whet.llm.graphs.graph import FLOAT, INT64, GraphWriter

ENCODERS: Mapping[str, str] = MappingProxyType(
    {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta"}
)
"""Families by ``model_type``, and what their tensors' names begin with."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of an encoder.

    Attributes:
        family: name, as ``config.json`` has it under ``model_type``.
        prefix: what the names of its tensors begin with.
        vocabulary: number of tokens.
        hidden: width of the residual stream.
        heads: heads of attention.
        layers: number of layers.
        inner: width inside the feed-forward network.
        context: tokens that a text may have.
        first_position: position of the first token.
        eps: added to variances.
        activation: of the feed-forward network.
        labels: scores of a text; 0 without a head for them.
        kinds: of tokens that are told apart: those of a question and of a text, or 1.
    """

    family: str
    prefix: str
    vocabulary: int
    hidden: int
    heads: int
    layers: int
    inner: int
    context: int
    first_position: int
    eps: float
    activation: str
    labels: int
    kinds: int


def encoder_shape(checkpoint: Checkpoint) -> Shape:
    """Return the sizes that a checkpoint's configuration gives.

    Raises:
        UnsupportedError: the family, its positions or its activation is not known.
        ModelError: a value is missing or wrong.
    """
    config = checkpoint.config
    family = config.family(ENCODERS)
    kind = config.text("position_embedding_type", "absolute")
    activation = config.text("hidden_act", "gelu")
    if kind != "absolute" or activation not in ACTIVATIONS:
        raise UnsupportedError(f"{kind} positions or activation {activation!r}", where=config.where)
    name = ENCODERS[family]
    first = config.integer("pad_token_id", 1) + 1 if name == "roberta" else 0
    names = checkpoint.names
    prefix = f"{name}." if any(n.startswith(f"{name}.") for n in names) else ""
    head = next((n for n in _HEADS if n in names), "")
    return Shape(
        family=family,
        prefix=prefix,
        vocabulary=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        heads=config.integer("num_attention_heads"),
        layers=config.integer("num_hidden_layers"),
        inner=config.integer("intermediate_size"),
        context=config.integer("max_position_embeddings", 512) - first,
        first_position=first,
        eps=config.number("layer_norm_eps", 1e-12),
        activation=activation,
        labels=checkpoint.shape(head)[0] if head else 0,
        kinds=checkpoint.shape(f"{prefix}embeddings.token_type_embeddings.weight")[0],
    )


_HEADS = ("classifier.weight", "classifier.out_proj.weight")


def encoder_graph(shape: Shape, checkpoint: Checkpoint) -> ir.Model:
    """Return the graph of an encoder.

    Raises:
        ModelError: a tensor is missing or has the wrong shape.
    """
    return _Encoder(shape, checkpoint, GraphWriter()).model()


@dataclass(frozen=True, slots=True)
class _Encoder:
    shape: Shape
    checkpoint: Checkpoint
    g: GraphWriter

    def model(self) -> ir.Model:
        """Write the whole graph."""
        g, shape = self.g, self.shape
        dims = ["texts", "tokens"]
        inputs = [g.input(name, INT64, dims) for name in ("ids", "positions", "types")]
        mask = g.input("mask", ir.DataType.BOOL, dims)
        seen = g.op("Unsqueeze", mask, self.g.ints(1, 2), name="seen")
        x = self._embedded(inputs)
        for number in range(shape.layers):
            x = self._layer(x, seen, f"{shape.prefix}encoder.layer.{number}")
        states = g.op("Identity", x, name="states")
        states.type, states.shape = ir.TensorType(FLOAT), ir.Shape([*dims, shape.hidden])
        outputs = [states]
        if shape.labels:
            scores = self._scores(x)
            scores.type, scores.shape = ir.TensorType(FLOAT), ir.Shape(["texts", shape.labels])
            outputs.append(scores)
        return g.model(shape.family, outputs)

    def _embedded(self, inputs: list[ir.Value]) -> ir.Value:
        g, prefix = self.g, f"{self.shape.prefix}embeddings"
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        found = []
        for name, ids in zip(names, inputs, strict=True):
            rows = self.checkpoint.shape(f"{prefix}.{name}.weight")[:1]
            table = self._weight(f"{prefix}.{name}.weight", (*rows, self.shape.hidden))
            found.append(g.op("Gather", table, ids, name=name, axis=0))
        both = g.op("Add", found[0], found[1], name="placed")
        return self._norm(g.op("Add", both, found[2], name="embedded"), f"{prefix}.LayerNorm")

    def _layer(self, x: ir.Value, seen: ir.Value, name: str) -> ir.Value:
        g, shape, prefix = self.g, self.shape, f"{name}.attention"
        wide = (shape.hidden, shape.hidden)
        q, k, v = (
            self._linear(x, f"{prefix}.self.{role}", wide) for role in ("query", "key", "value")
        )
        y = g.op(
            "Attention",
            *(q, k, v, seen),
            name=f"{prefix}.mixed",
            q_num_heads=shape.heads,
            kv_num_heads=shape.heads,
        )
        y = self._linear(y, f"{prefix}.output.dense", wide)
        x = g.op("Add", x, y, name=f"{prefix}.added")
        x = self._norm(x, f"{prefix}.output.LayerNorm")
        y = self._linear(x, f"{name}.intermediate.dense", (shape.inner, shape.hidden))
        op, attributes = ACTIVATIONS[shape.activation]
        y = g.op(op, y, name=f"{name}.activated", **attributes)
        y = self._linear(y, f"{name}.output.dense", (shape.hidden, shape.inner))
        return self._norm(g.op("Add", x, y, name=f"{name}.added"), f"{name}.output.LayerNorm")

    def _scores(self, x: ir.Value) -> ir.Value:
        """Write the head: the first token's vector, a dense layer with tanh, and a product."""
        g, shape = self.g, self.shape
        first = g.op("Gather", x, g.constant("first", np.array(0, np.int64)), name="cls", axis=1)
        roberta = "classifier.out_proj.weight" in self.checkpoint.names
        dense = "classifier.dense" if roberta else f"{shape.prefix}pooler.dense"
        y = self._linear(first, dense, (shape.hidden, shape.hidden))
        y = g.op("Tanh", y, name="pooled")
        last = "classifier.out_proj" if roberta else "classifier"
        y = self._linear(y, last, (shape.labels, shape.hidden))
        return g.op("Identity", y, name="scores")

    def _linear(self, x: ir.Value, name: str, wide: tuple[int, int]) -> ir.Value:
        g = self.g
        weight = self._weight(f"{name}.weight", wide)
        turned = g.op("Transpose", weight, name=f"{name}.turned", perm=[1, 0])
        y = g.op("MatMul", x, turned, name=f"{name}.product")
        return g.op("Add", y, self._weight(f"{name}.bias", wide[:1]), name=name)

    def _norm(self, x: ir.Value, name: str) -> ir.Value:
        size = (self.shape.hidden,)
        scale, bias = (self._weight(f"{name}.{part}", size) for part in ("weight", "bias"))
        return self.g.op(
            "LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=self.shape.eps
        )

    def _weight(self, name: str, wanted: tuple[int, ...]) -> ir.Value:
        shape = self.checkpoint.shape(name)
        if shape != wanted:
            raise wrong_shape(self.checkpoint, name, shape, wanted)
        return self.g.weight(name, shape, lambda: self.checkpoint.tensor(name))
