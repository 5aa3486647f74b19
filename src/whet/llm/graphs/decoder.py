"""The graph of one step of a decoder: tokens of any number of sequences in, logits out.

All tokens of a step are one list, whatever sequences they belong to; only attention tells them
apart. Every size that a step decides is a symbolic dim, so that one program runs them all.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.kernel.paged import COLUMNS, PAGE
from whet.llm.architecture import Architecture, Layer, Part, Parts, Rope
from whet.llm.checkpoints.checkpoint import Checkpoint, wrong_shape
from whet.llm.graphs.adapters import AdapterLinear, Adapters
from whet.llm.graphs.block_linear import BlockLinear
from whet.llm.graphs.experts import Network, Pieces, write_experts
from whet.llm.graphs.graph import FLOAT, INT8, INT32, INT64, GraphWriter
from whet.llm.graphs.rope import rope_tables
from whet.llm.source import Cache

CACHE_TYPES: Mapping[str, ir.DataType] = MappingProxyType(
    {
        "float32": FLOAT,
        "float16": ir.DataType.FLOAT16,
        "bfloat16": ir.DataType.BFLOAT16,
        "int8": INT8,
    }
)

ACTIVATIONS = {
    "silu": ("Swish", {}),
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_fast": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "swish": ("Swish", {}),
}


def decoder_graph(
    arch: Architecture,
    checkpoint: Checkpoint,
    context: int,
    cache: Cache = "float32",
    *,
    states: bool = False,
    adapters: Adapters | None = None,
) -> ir.Model:
    """Return the graph of a decoder's step.

    Args:
        arch: what it is made of.
        checkpoint: its tensors.
        context: positions that sequences may have.
        cache: type of keys and values.
        states: whether it gives the states in front of the head instead of logits.
        adapters: that tokens may have; ``None`` for none.

    Raises:
        ModelError: a tensor is missing or has the wrong shape.
        UnsupportedError: the activation is not known.
    """
    if arch.activation not in ACTIVATIONS:
        raise UnsupportedError(
            f"activation {arch.activation!r}", hint=f"known: {', '.join(ACTIVATIONS)}"
        )
    writer = GraphWriter()
    linear = BlockLinear(writer, checkpoint), AdapterLinear.begun(writer, adapters)
    return _Decoder(arch, checkpoint, context, writer, *linear, cache).model(states=states)


@dataclass(frozen=True, slots=True)
class _Step:
    """What every layer reads of the step."""

    positions: ir.Value
    slots: ir.Value
    tiles: ir.Value
    tables: ir.Value
    angles: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Decoder:
    arch: Architecture
    checkpoint: Checkpoint
    context: int
    g: GraphWriter
    blocks: BlockLinear
    loras: AdapterLinear
    cache: Cache

    def model(self, *, states: bool) -> ir.Model:
        """Write the whole graph."""
        g, arch = self.g, self.arch
        ids = g.input("ids", INT64, ["tokens"])
        step = _Step(
            g.input("positions", INT64, [3, "tokens"] if arch.turned else ["tokens"]),
            g.input("slots", INT32, ["tokens"]),
            g.input("tiles", INT32, ["tiles", 4]),
            g.input("tables", INT32, ["sequences", "width"]),
        )
        rows = g.input("rows", INT64, ["logits"])
        x = self._embedding(ids, step)
        for number, layer in enumerate(arch.layers):
            x = self._layer(x, number, layer, step)
        last = g.op("Gather", x, rows, name="last", axis=0)
        last = self._norm(last, "norm", arch.parts, "norm")
        if states:
            last.type, last.shape = ir.TensorType(FLOAT), ir.Shape(["logits", arch.hidden])
            return g.model(arch.family, [last])
        raw = "logits.raw" if arch.logit_softcap else "logits"
        logits = self._linear(last, "head", arch.parts, (arch.vocabulary, arch.hidden), raw)
        if arch.logit_softcap:
            logits = self._softcap(logits, arch.logit_softcap, "logits")
        logits.type, logits.shape = ir.TensorType(FLOAT), ir.Shape(["logits", arch.vocabulary])
        return g.model(arch.family, [logits])

    def _embedding(self, ids: ir.Value, step: _Step) -> ir.Value:
        g, arch = self.g, self.arch
        x = self._embedded(ids, (arch.vocabulary, arch.hidden))
        if arch.pictures:
            x = self._with_features(x)
        if arch.embedding_scale != 1.0:
            factor = g.constant("embedding.scale", np.float32(arch.embedding_scale).reshape(1))
            x = g.op("Mul", x, factor, name="embedded.enlarged")
        if "positions" in arch.parts:
            shape = self.checkpoint.shape(arch.parts["positions"].name)
            table = self._weight("positions", arch.parts, (shape[0], arch.hidden))
            at = g.op("Gather", table, step.positions, name="placed", axis=0)
            x = g.op("Add", x, at, name="embedded.placed")
        return x

    def _with_features(self, x: ir.Value) -> ir.Value:
        """Put features of images in the place of the tokens that stand for them."""
        g = self.g
        places = g.input("places", INT64, ["tokens"])
        features = g.input("features", FLOAT, ["features", self.arch.hidden])
        zero = g.constant("ints.zero", np.array(0, np.int64))
        rows = g.op("Max", places, zero, name="seen.rows")
        found = g.op("Gather", features, rows, name="seen", axis=0)
        is_seen = g.op("GreaterOrEqual", places, zero, name="seen.is")
        is_seen = g.op("Unsqueeze", is_seen, self.g.ints(1), name="seen.wide")
        return g.op("Where", is_seen, found, x, name="embedded.seen")

    def _embedded(self, ids: ir.Value, shape: tuple[int, int]) -> ir.Value:
        part = self.arch.parts["embedding"]
        if self.blocks.kind(part) is not None:
            _check_shape(part, self.checkpoint, shape)
            return self.blocks.embedded(ids, part, shape, "embedded")
        table = self._weight("embedding", self.arch.parts, shape)
        return self.g.op("Gather", table, ids, name="embedded", axis=0)

    def _layer(self, x: ir.Value, number: int, layer: Layer, step: _Step) -> ir.Value:
        g, parts, name = self.g, layer.parts, f"layer{number}"
        y = self._norm(x, "attention_norm", parts, f"{name}.attention_norm")
        y = self._attention(y, number, layer, step)
        y = self._norm(y, "attention_post_norm", parts, f"{name}.attention_post_norm")
        if self.arch.parallel:
            z = self._mlp(self._norm(x, "mlp_norm", parts, f"{name}.mlp_norm"), layer, name)
            both = g.op("Add", y, z, name=f"{name}.both")
            return g.op("Add", both, x, name=f"{name}.out")
        x = g.op("Add", x, y, name=f"{name}.attended")
        y = self._mlp(self._norm(x, "mlp_norm", parts, f"{name}.mlp_norm"), layer, name)
        y = self._norm(y, "mlp_post_norm", parts, f"{name}.mlp_post_norm")
        return g.op("Add", x, y, name=f"{name}.out")

    # -- attention -----------------------------------------------------------------------------

    def _attention(self, x: ir.Value, number: int, layer: Layer, step: _Step) -> ir.Value:
        g, arch, name = self.g, self.arch, f"layer{number}"
        counts = {"q": arch.heads, "k": arch.kv_heads, "v": arch.kv_heads}
        q, k, v = (self._heads(x, role, counts[role], layer, step, name) for role in "qkv")
        padded = -(-arch.head_size // COLUMNS) * COLUMNS
        size = arch.head_size
        kind, heads = CACHE_TYPES[self.cache], arch.kv_heads
        pools = [
            g.input(f"keys.{number}", kind, ["pages", heads, size, PAGE]),
            g.input(f"values.{number}", kind, ["pages", heads, PAGE, padded]),
        ]
        scales = [
            g.input(f"{role}_scales.{number}", FLOAT, ["pages", heads, PAGE])
            for role in (("key", "value") if self.cache == "int8" else ())
        ]
        y = g.whet_op(
            "PagedAttention",
            *(q, k, v, *pools, step.slots, step.tiles, step.tables, *scales),
            name=f"{name}.attention",
            dims=["tokens", arch.heads, size],
            scale=float(arch.scale),
            softcap=float(arch.score_softcap),
            window=layer.window,
        )
        y = self._reshape(y, (-1, arch.heads * size), f"{name}.joined")
        return self._linear(y, "o", layer.parts, (arch.hidden, arch.heads * size), f"{name}.o")

    def _heads(
        self, x: ir.Value, role: str, heads: int, layer: Layer, step: _Step, name: str
    ) -> ir.Value:
        """Return queries, keys or values as [token, head, element], turned to their positions."""
        g, arch, size = self.g, self.arch, self.arch.head_size
        y = self._linear(x, role, layer.parts, (heads * size, arch.hidden), f"{name}.{role}")
        if arch.clip:
            low, high = (np.array(s * arch.clip, np.float32) for s in (-1, 1))
            limits = g.constant("clip.low", low), g.constant("clip.high", high)
            y = g.op("Clip", y, *limits, name=f"{name}.{role}.clipped")
        if role == "v":
            return self._reshape(y, (-1, heads, size), f"{name}.{role}.heads")
        norm = f"{role}_norm"
        if arch.full_norms:
            y = self._norm(y, norm, layer.parts, f"{name}.{norm}")
        y = self._reshape(y, (-1, heads, size), f"{name}.{role}.heads")
        if not arch.full_norms:
            y = self._norm(y, norm, layer.parts, f"{name}.{norm}")
        return y if layer.rope is None else self._turned(y, heads, layer, step, f"{name}.{role}")

    def _turned(self, y: ir.Value, heads: int, layer: Layer, step: _Step, name: str) -> ir.Value:
        g, rope, size = self.g, layer.rope, self.arch.head_size
        assert rope is not None, "layers without rotary positions turn nothing"
        flat = self._reshape(y, (1, -1, heads * size), f"{name}.flat")
        if rope.sections:
            angles = self._angles_by_section(rope, step)
        else:
            places = g.op("Unsqueeze", step.positions, self.g.ints(0), name=f"{name}.places")
            angles = (*self._angle_tables(rope), places)
        turned = g.op(
            "RotaryEmbedding",
            *(flat, *angles),
            name=f"{name}.turned",
            num_heads=heads,
            interleaved=int(rope.interleaved),
            rotary_embedding_dim=0 if rope.size == size else rope.size,
        )
        return self._reshape(turned, (-1, heads, size), f"{name}.placed")

    def _angle_tables(self, rope: Rope) -> tuple[ir.Value, ir.Value]:
        key = f"rope.{zlib.crc32(repr(rope).encode()):08x}"
        cos, sin = rope_tables(rope, self.context)
        return self.g.constant(f"{key}.cos", cos), self.g.constant(f"{key}.sin", sin)

    def _angles_by_section(self, rope: Rope, step: _Step) -> tuple[ir.Value, ...]:
        """Return cosines and sines of every token, whose sections turn by positions of their own.

        They are the same in all layers, and written once.
        """
        g, found = self.g, step.angles.get("sections")
        if found is not None:
            return found
        ends = np.cumsum((0, *rope.sections))
        made = []
        for part, table in zip(("cos", "sin"), rope_tables(rope, self.context), strict=True):
            pieces = []
            for k in range(3):
                at = g.op("Gather", step.positions, self.g.ints(k), name=f"{part}.at{k}", axis=0)
                at = g.op("Squeeze", at, self.g.ints(0), name=f"{part}.of{k}")
                columns = np.ascontiguousarray(table[:, ends[k] : ends[k + 1]])
                rows = g.constant(f"rope.{part}{k}", columns)
                pieces.append(g.op("Gather", rows, at, name=f"{part}.piece{k}", axis=0))
            whole = g.op("Concat", *pieces, name=f"{part}.whole", axis=1)
            made.append(g.op("Unsqueeze", whole, self.g.ints(0), name=f"{part}.angles"))
        step.angles["sections"] = made[0], made[1]
        return made[0], made[1]

    # -- the rest ------------------------------------------------------------------------------

    def _mlp(self, x: ir.Value, layer: Layer, name: str) -> ir.Value:
        if layer.experts is None:
            return self._network(x, Network("", self.arch.inner), layer.parts, name)

        def network(y: ir.Value, part: Network) -> ir.Value:
            return self._network(y, part, layer.parts, f"{name}.{part.prefix}"[:-1])

        def router(role: str, width: int) -> ir.Value:
            shape = (width, self.arch.hidden)
            return self._linear(x, role, layer.parts, shape, f"{name}.{role}")

        return write_experts(self.g, x, layer.experts, Pieces(network, router, name))

    def _network(self, x: ir.Value, network: Network, parts: Parts, name: str) -> ir.Value:
        """Write a feed-forward network; a gate is there if it has a part."""
        g, hidden = self.g, self.arch.hidden
        prefix, wide = network.prefix, (network.inner, hidden)
        up = self._linear(x, f"{prefix}up", parts, wide, f"{name}.up")
        op, attributes = ACTIVATIONS[self.arch.activation]
        if f"{prefix}gate" in parts:
            gate = self._linear(x, f"{prefix}gate", parts, wide, f"{name}.gate")
            opened = g.op(op, gate, name=f"{name}.activated", **attributes)
            inner = g.op("Mul", opened, up, name=f"{name}.gated")
        else:
            inner = g.op(op, up, name=f"{name}.activated", **attributes)
        return self._linear(inner, f"{prefix}down", parts, wide[::-1], f"{name}.down")

    def _norm(self, x: ir.Value, role: str, parts: Parts, name: str) -> ir.Value:
        """Write a norm over the last axis; none if the role has no part."""
        g, arch = self.g, self.arch
        if arch.bare_norm and role in ("attention_norm", "mlp_norm", "norm"):
            ones = g.constant("norm.ones", np.ones(arch.hidden, np.float32))
            return g.op("LayerNormalization", x, ones, name=name, epsilon=arch.norm_eps)
        if role not in parts:
            return x
        shape = self.checkpoint.shape(parts[role].name)
        scale = self._weight(role, parts, (self._norm_size(role),))
        if arch.norm == "rms":
            return g.op("RMSNormalization", x, scale, name=name, axis=-1, epsilon=arch.norm_eps)
        bias = self._weight(f"{role}.bias", parts, shape) if f"{role}.bias" in parts else None
        inputs = (x, scale) if bias is None else (x, scale, bias)
        return g.op("LayerNormalization", *inputs, name=name, axis=-1, epsilon=arch.norm_eps)

    def _norm_size(self, role: str) -> int:
        arch = self.arch
        if role not in ("q_norm", "k_norm"):
            return arch.hidden
        heads = arch.heads if role == "q_norm" else arch.kv_heads
        return arch.head_size * (heads if arch.full_norms else 1)

    def _linear(
        self, x: ir.Value, role: str, parts: Parts, shape: tuple[int, int], name: str
    ) -> ir.Value:
        def plain(name: str) -> ir.Value:
            return self._plain_linear(x, role, parts, shape, name)

        return self.loras.linear(x, parts[role], shape, name, plain)

    def _plain_linear(
        self, x: ir.Value, role: str, parts: Parts, shape: tuple[int, int], name: str
    ) -> ir.Value:
        if self.blocks.kind(parts[role]) is not None:
            return self._block_linear(x, role, parts, shape, name)
        weight = self._weight(role, parts, shape)
        if f"{role}.bias" in parts:
            bias = self._weight(f"{role}.bias", parts, shape[:1])
            return self.g.op("Gemm", x, weight, bias, name=name, transB=1)
        return self.g.op("Gemm", x, weight, name=name, transB=1)

    def _block_linear(
        self, x: ir.Value, role: str, parts: Parts, shape: tuple[int, int], name: str
    ) -> ir.Value:
        _check_shape(parts[role], self.checkpoint, shape)
        lines = "logits" if role == "head" else "tokens"
        if role.startswith("expert"):
            lines = f"{x.name}.rows"  # as many as the router says
        if f"{role}.bias" not in parts:
            return self.blocks.linear(x, parts[role], shape, name, lines)
        y = self.blocks.linear(x, parts[role], shape, f"{name}.product", lines)
        return self.g.op("Add", y, self._weight(f"{role}.bias", parts, shape[:1]), name=name)

    def _weight(self, role: str, parts: Parts, shape: tuple[int, ...]) -> ir.Value:
        """Return a tensor of the checkpoint, checked against the shape that it has to have.

        Raises:
            ModelError: it is missing or has another shape.
        """
        part = parts[role]
        _check_shape(part, self.checkpoint, shape)
        key = part.name + (f"[{role}]" if part != Part(part.name) else "")
        return self.g.weight(key, shape, lambda: part.take(self.checkpoint.tensor(part.name)))

    def _softcap(self, x: ir.Value, cap: float, name: str) -> ir.Value:
        g = self.g
        factor = g.constant(f"{name}.cap", np.float32(cap).reshape(1))
        small = g.op("Div", x, factor, name=f"{name}.small")
        return g.op("Mul", g.op("Tanh", small, name=f"{name}.tanh"), factor, name=name)

    def _reshape(self, x: ir.Value, dims: tuple[int, ...], name: str) -> ir.Value:
        return self.g.op("Reshape", x, self.g.ints(*dims), name=name)


def _check_shape(part: Part, checkpoint: Checkpoint, wanted: tuple[int, ...]) -> None:
    shape = checkpoint.shape(part.name)
    seen = shape[::-1] if part.transposed else shape
    if part.stop:
        fits = bool(seen) and part.stop <= seen[0] and seen[1:] == wanted[1:]
        fits = fits and part.stop - part.start == wanted[0]
    elif part.thirds is not None:
        fits = bool(seen) and seen[0] == 3 * wanted[0] and seen[1:] == wanted[1:]
    else:
        fits = seen == wanted
    if not fits:
        raise wrong_shape(checkpoint, part.name, shape, wanted)
