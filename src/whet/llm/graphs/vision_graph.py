"""Writing a vision transformer: what CLIP's and Qwen's towers have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint, wrong_shape
from whet.llm.graphs.decoder import ACTIVATIONS
from whet.llm.graphs.graph import FLOAT, GraphWriter

QUICK = {"quick_gelu": ("Swish", {"alpha": 1.702})}
Turn = Callable[[ir.Value, str], ir.Value]


@dataclass(frozen=True, slots=True)
class Tower:
    """Sizes of a vision transformer.

    Attributes:
        hidden: width of the residual stream.
        heads: heads of attention.
        inner: width inside the feed-forward network.
        eps: added to variances.
        activation: of the feed-forward network.
    """

    hidden: int
    heads: int
    inner: int
    eps: float
    activation: str


@dataclass(frozen=True, slots=True)
class VisionWriter:
    """Writes the layers of a tower.

    Attributes:
        checkpoint: where the weights are.
        tower: its sizes.
        g: the graph.
    """

    checkpoint: Checkpoint
    tower: Tower
    g: GraphWriter = field(default_factory=GraphWriter)

    def attention(
        self, linears: dict[str, ir.Value], name: str, seen: ir.Value | None = None
    ) -> ir.Value:
        """Write attention, given queries, keys and values, and which places see which."""
        heads = self.tower.heads
        return self.g.op(
            "Attention",
            *(*(linears[role] for role in "qkv"), seen),
            name=f"{name}.mixed",
            q_num_heads=heads,
            kv_num_heads=heads,
        )

    def network(self, x: ir.Value, name: str) -> ir.Value:
        """Write the feed-forward network of a layer."""
        wide = (self.tower.inner, self.tower.hidden)
        y = self.linear(x, f"{name}.fc1", wide)
        y = self.activated(y, self.tower.activation, f"{name}.activated")
        return self.linear(y, f"{name}.fc2", wide[::-1])

    def activated(self, x: ir.Value, activation: str, name: str) -> ir.Value:
        """Write an activation.

        Raises:
            UnsupportedError: it is not known.
        """
        known = ACTIVATIONS | QUICK
        if activation not in known:
            raise UnsupportedError(f"activation {activation!r}", hint=f"known: {', '.join(known)}")
        op, attributes = known[activation]
        return self.g.op(op, x, name=name, **attributes)

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """Write a norm over the last axis: with a bias of mean and variance, else of squares."""
        size, epsilon = (self.tower.hidden,), self.tower.eps
        scale = self.weight(f"{name}.weight", size)
        if f"{name}.bias" not in self.checkpoint.names:
            return self.g.op("RMSNormalization", x, scale, name=name, axis=-1, epsilon=epsilon)
        bias = self.weight(f"{name}.bias", size)
        return self.g.op("LayerNormalization", x, scale, bias, name=name, epsilon=epsilon)

    def linear(
        self, x: ir.Value, name: str, wide: tuple[int, int], *, rows: int = 0, of: int = 1
    ) -> ir.Value:
        """Write a linear layer with a bias if it has one.

        Args:
            x: what it reads.
            name: of its tensors.
            wide: its columns and depth.
            rows: which part of the tensor's rows is meant, where several layers share one.
            of: how many parts it has.
        """
        columns, depth = wide
        suffix = f".{rows}" if of > 1 else ""
        weight = self.weight(f"{name}.weight", (of * columns, depth), (rows, of))
        turned = self.g.op("Transpose", weight, name=f"{name}.turned{suffix}", perm=[1, 0])
        y = self.g.op("MatMul", x, turned, name=f"{name}.product{suffix}")
        if f"{name}.bias" not in self.checkpoint.names:
            return y
        bias = self.weight(f"{name}.bias", (of * columns,), (rows, of))
        return self.g.op("Add", y, bias, name=f"{name}{suffix}")

    def weight(
        self, name: str, wanted: tuple[int, ...], part: tuple[int, int] = (0, 1)
    ) -> ir.Value:
        """Return a tensor, or one of several equal parts of its rows.

        Raises:
            ModelError: it is missing or has another shape.
        """
        shape = self.checkpoint.shape(name)
        if shape != wanted:
            raise wrong_shape(self.checkpoint, name, shape, wanted)
        which, parts = part
        count = shape[0] // parts

        def read() -> Array:
            return self.checkpoint.tensor(name)[which * count : (which + 1) * count]

        key = name if parts == 1 else f"{name}[{which}]"
        return self.g.weight(key, (count, *shape[1:]), read)

    def finished(self, features: ir.Value, tokens: int | str, width: int) -> ir.Model:
        """Return the model whose output is the features."""
        found = self.g.op("Identity", features, name="features")
        found.type, found.shape = ir.TensorType(FLOAT), ir.Shape(["images", tokens, width])
        return self.g.model("vision", [found])
