"""Linear layers and embeddings whose weights stay in the blocks of few bits that a file holds.

Rows are brought into blocks once for all layers that read them. Embeddings are looked up among
codes and scales and dequantised behind the look-up, so that no table of floats is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from whet.kernel.block_formats import FORMATS, GROUP, BlockFormat, Blocks, read_blocks
from whet.kernel.blocks import ROW_TILE, row_words
from whet.llm.architecture import Array, Part
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.graphs.graph import INT8, INT32, UINT8, Dims, GraphWriter


@dataclass(frozen=True, slots=True)
class BlockLinear:
    """Writes layers with weights in blocks.

    Attributes:
        g: the graph.
        checkpoint: where weights are.
    """

    g: GraphWriter
    checkpoint: Checkpoint
    _rows: dict[tuple[str | None, int, int], ir.Value] = field(default_factory=dict)
    _moved: dict[str, ir.Value] = field(default_factory=dict)

    def kind(self, part: Part) -> BlockFormat | None:
        """Return the format in which a part is stored, ``None`` if it has to be read as floats."""
        name = self.checkpoint.block_format(part.name)
        if name is None or part.transposed or part.plus:
            return None
        return FORMATS[name]

    def linear(
        self, x: ir.Value, part: Part, shape: tuple[int, int], name: str, lines: str = "tokens"
    ) -> ir.Value:
        """Write ``x`` times the transposed weights of a part that is stored in blocks.

        Args:
            x: rows of floats.
            part: the weights.
            shape: their columns and depth.
            name: of the result.
            lines: name of the number of rows.
        """
        kind = self.kind(part)
        assert kind is not None, "the part is stored in blocks"
        weights = self._weights(part, kind, shape)
        order = self.checkpoint.order(part.name)
        if order is not None:
            x = self._ordered(x, order)
        rows = self._quantized(
            x, kind, [f"{lines}.tiles", shape[1] // GROUP, ROW_TILE, row_words(kind.spans)]
        )
        return self.g.whet_op(
            "BlockMatMul", rows, weights, name=name, dims=[lines, shape[0]], format=kind.name
        )

    def _ordered(self, x: ir.Value, order: Array) -> ir.Value:
        """Return rows whose values come in another order; layers of the same order share them."""
        key = hashlib.sha256(order.tobytes()).hexdigest()[:16]
        name = f"{x.name}.ordered.{key}"
        if name not in self._moved:
            places = self.g.constant(f"order.{key}", order.astype(np.int64))
            self._moved[name] = self.g.op("Gather", x, places, name=name, axis=1)
        return self._moved[name]

    def _quantized(self, x: ir.Value, kind: BlockFormat, dims: Dims) -> ir.Value:
        """Return rows in blocks; formats that begin their sums alike share them."""
        key = (x.name, kind.zero, kind.spans)
        if key not in self._rows:
            self._rows[key] = self.g.whet_op(
                "QuantizeRows",
                x,
                name=f"{x.name}.rows{kind.zero}.{kind.spans}",
                dims=dims,
                dtype=INT32,
                format=kind.name,
            )
        return self._rows[key]

    def _weights(self, part: Part, kind: BlockFormat, shape: tuple[int, int]) -> ir.Value:
        size = (shape[0], kind.row_bytes(shape[1]))
        key = f"{part.name}.blocks" + ("" if part == Part(part.name) else f"[{part}]")
        return self.g.weight(key, size, lambda: self._bytes(part), UINT8)

    def _bytes(self, part: Part) -> Array:
        return part.take(self.checkpoint.blocks(part.name))

    def embedded(self, ids: ir.Value, part: Part, shape: tuple[int, int], name: str) -> ir.Value:
        """Write the rows of a part that is stored in blocks at some places, as floats."""
        g, kind = self.g, self.kind(part)
        assert kind is not None, "the part is stored in blocks"
        groups = shape[1] // GROUP
        tables: Mapping[str, tuple[int, ir.DataType, Callable[[Blocks], Array]]] = {
            "codes": (shape[1], INT8, lambda b: _signed(b, kind)),
            "scales": (groups * kind.spans, ir.DataType.FLOAT, Blocks.group_scales),
        }
        if kind.minimums:
            tables = {**tables, "minimums": (groups, ir.DataType.FLOAT, _minimums)}
        found = {}
        for role, (width, dtype, read) in tables.items():

            def taken(read: Callable[[Blocks], Array] = read) -> Array:
                return read(read_blocks(kind, self._bytes(part)))

            table = g.weight(f"{part.name}.{role}", (shape[0], width), taken, dtype)
            found[role] = g.op("Gather", table, ids, name=f"{name}.{role}", axis=0)
        last = g.ints(-1)
        codes = g.op("Cast", found["codes"], name=f"{name}.floats", to=int(ir.DataType.FLOAT))
        split = np.array([-1, groups * kind.spans, GROUP // kind.spans], np.int64)
        values = g.op("Reshape", codes, g.constant(f"{name}.split", split), name=f"{name}.groups")
        scales = g.op("Unsqueeze", found["scales"], last, name=f"{name}.factors")
        values = g.op("Mul", values, scales, name=f"{name}.scaled")
        if kind.minimums:
            lows = g.op("Unsqueeze", found["minimums"], last, name=f"{name}.lows")
            values = g.op("Add", values, lows, name=f"{name}.raised")
        whole = g.constant(f"{name}.whole", np.array([-1, shape[1]], np.int64))
        return g.op("Reshape", values, whole, name=name)


def _signed(blocks: Blocks, kind: BlockFormat) -> Array:
    signed = (blocks.codes.astype(np.int16) - kind.zero).astype(np.int8)
    return signed.reshape(len(signed), -1)


def _minimums(blocks: Blocks) -> Array:
    found = blocks.group_minimums()
    assert found is not None, "the format has minimums"
    return found
