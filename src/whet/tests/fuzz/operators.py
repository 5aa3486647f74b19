"""How random nodes of each operator are made.

``GENERATORS`` has an entry for operators whose inputs depend on each other. All others of the table
of operators are made from their schema: inputs of one shape, types as they allow. So a new operator
takes part without an entry here.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx.defs

from whet.dtypes import DTYPES
from whet.graph.opset import canonical_opset, has_operator
from whet.ops.table import op_table
from whet.tests.fuzz.draft import Draft, Generator, Proposal
from whet.tests.fuzz.products import (
    channel_norm,
    gemm,
    global_max_pool,
    grid_sample,
    layer_norm,
    mat_mul,
    pooling,
    qlinear_mat_mul,
    recurrent,
    resize,
    windowed,
)

LEFT_OUT = frozenset(
    {"Dropout", "Constant", "RandomNormal", "RandomUniform", "RandomNormalLike"}
    | {"RandomUniformLike", "Bernoulli", "Multinomial", "If", "Loop", "Scan", "Shape", "Size"}
)
"""Random, without inputs, or with sub-graphs."""

_SPELLING = {"float": "float32", "double": "float64"}


def operators() -> list[str]:
    """Return the names of the standard operators that can be generated."""
    version = canonical_opset()
    known = (n for domain, n in op_table() if domain == "" and has_operator(n, version))
    return sorted(set(known) - LEFT_OUT)


def propose(draft: Draft, op: str) -> Proposal:
    """Return a random node of an operator; it may turn out not to work."""
    generator = GENERATORS.get(op)
    return generator(draft) if generator is not None else _from_schema(draft, op)


@functools.cache
def _schema(op: str) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op, canonical_opset(), "")


def _types(schema: onnx.defs.OpSchema, variable: str) -> list[str]:
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    names = [t[7:-1] for t in allowed.get(variable, [variable]) if t.startswith("tensor(")]
    return [n for n in (_SPELLING.get(name, name) for name in names) if n in DTYPES]


def _from_schema(draft: Draft, op: str) -> Proposal:
    """Return a node with inputs of one shape, each of a type that the operator takes."""
    schema = _schema(op)
    bound: dict[str, str] = {}
    names: list[str] = []
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    for formal in schema.inputs:
        if formal.option == optional:
            break
        types = _types(schema, formal.type_str) or [draft.dtype]
        usual = draft.dtype if draft.dtype in types and draft.likely(0.7) else draft.choice(types)
        dtype = bound.setdefault(formal.type_str, usual)
        for _ in range(draft.integer(1, 3) if formal.option == variadic else 1):
            fits = names and draft.of(names[0]).dtype.name == dtype
            shape = draft.of(names[0]).shape if names else ()
            names.append(
                draft.like(names[0]) if fits
                else draft.fresh(draft.numbers(shape, dtype)) if names
                else draft.some(dtype)
            )  # fmt: skip
    return Proposal(op, names)


# -- one input and parameters ----------------------------------------------------------------------


def _axis(draft: Draft, x: str) -> int:
    rank = draft.of(x).ndim
    return draft.integer(-rank, rank - 1) if rank else 0


def _with_axis(op: str, *, outputs: int = 1) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(1, 2, 3, 4))
        return Proposal(op, [x], {"axis": _axis(draft, x)}, outputs)

    return make


def _reduce(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(draft.choice((draft.dtype, draft.dtype, "int32")))
        rank = draft.of(x).ndim
        count = draft.integer(0, rank)
        axes = draft.rng.permutation(rank)[:count].tolist()
        inputs = [x, draft.parameter(axes)] if count else [x]
        return Proposal(op, inputs, {"keepdims": draft.integer(0, 1)})

    return make


def _arg(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(1, 2, 3, 4))
        extra = {"keepdims": draft.integer(0, 1), "select_last_index": draft.integer(0, 1)}
        return Proposal(op, [x], {"axis": _axis(draft, x), **extra})

    return make


def _reshape(draft: Draft) -> Proposal:
    x = draft.some(draft.choice((draft.dtype, "int64", "bool")))
    sizes, left = [], draft.of(x).size
    for prime in (2, 2, 2, 3, 5, 7, 17):
        if left % prime == 0 and draft.likely(0.6):
            left //= prime
            sizes.append(prime)
    target = [*sizes, left]
    if draft.likely(0.5):
        target[draft.integer(0, len(target) - 1)] = -1
    return Proposal("Reshape", [x, draft.parameter(target)])


def _transpose(draft: Draft) -> Proposal:
    x = draft.some(rank=(2, 3, 4))
    return Proposal("Transpose", [x], {"perm": draft.rng.permutation(draft.of(x).ndim).tolist()})


def _slice(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3, 4))
    axis = _axis(draft, x)
    extent = draft.of(x).shape[axis]
    start, end = (draft.integer(-extent - 2, extent + 2) for _ in range(2))
    step = draft.choice((1, 1, 2, 3, -1, -2))
    return Proposal("Slice", [x, *(draft.parameter([v]) for v in (start, end, axis, step))])


def _split(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3, 4))
    axis = _axis(draft, x)
    parts = draft.integer(1, 3)
    cuts = sorted(draft.integer(0, draft.of(x).shape[axis]) for _ in range(parts - 1))
    sizes = np.diff([0, *cuts, draft.of(x).shape[axis]]).tolist()
    return Proposal("Split", [x, draft.parameter(sizes)], {"axis": axis}, parts)


def _squeeze(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some()
        array = draft.of(x)
        if op == "Unsqueeze":
            return Proposal(op, [x, draft.parameter([draft.integer(-array.ndim - 1, array.ndim)])])
        ones = [k for k, e in enumerate(array.shape) if e == 1]
        return Proposal(op, [x, draft.parameter(ones)] if draft.likely(0.5) else [x])

    return make


def _pad(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3, 4))
    pads = [draft.integer(-1, 3) for _ in range(2 * draft.of(x).ndim)]
    mode = draft.choice(("constant", "constant", "edge", "reflect", "wrap"))
    if mode != "constant":
        pads = [max(p, 0) for p in pads]
    return Proposal("Pad", [x, draft.parameter(pads)], {"mode": mode})


def _tile(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    return Proposal("Tile", [x, draft.parameter([draft.integer(1, 3) for _ in draft.of(x).shape])])


def _expand(draft: Draft) -> Proposal:
    x = draft.some(draft.choice((draft.dtype, "int64", "bool")))
    shape = [draft.choice((e, 2, 3)) if e == 1 else draft.choice((e, 1)) for e in draft.of(x).shape]
    more = [2] if draft.likely(0.3) else []
    return Proposal("Expand", [x, draft.parameter([*more, *shape])])


def _cast(draft: Draft) -> Proposal:
    x = draft.some(draft.choice(("float32", "int32", "bool", "int64", "float64", draft.dtype)))
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    more = (onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL, onnx.TensorProto.INT8)
    return Proposal("Cast", [x], {"to": draft.choice((*kinds, *more, onnx.TensorProto.FLOAT16))})


def _cast_like(draft: Draft) -> Proposal:
    """Propose a conversion to a signed type: what a negative float is without sign nobody says."""
    kind = draft.choice(("float32", "int32", "bool", "int64", "float64", "int8", "float16"))
    return Proposal("CastLike", [draft.some(), draft.some(kind)])


def _clip(draft: Draft) -> Proposal:
    x = draft.some()
    low, high = (draft.parameter(v, draft.of(x).dtype.name) for v in (-0.75, 1.25))
    return Proposal("Clip", [x, draft.choice((low, "")), draft.choice((high, ""))])


def _cumulative(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        x = draft.some(rank=(1, 2, 3))
        flags = {"exclusive": draft.integer(0, 1), "reverse": draft.integer(0, 1)}
        return Proposal(op, [x, draft.parameter(_axis(draft, x))], flags)

    return make


def _trilu(draft: Draft) -> Proposal:
    x = draft.some(rank=(2, 3))
    return Proposal(
        "Trilu", [x, draft.parameter(draft.integer(-3, 3))], {"upper": draft.integer(0, 1)}
    )


def _blocks(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        shape = (draft.integer(1, 2), 4 * draft.integer(1, 3), 2 * draft.integer(1, 3), 4)
        return Proposal(op, [draft.fresh(draft.numbers(shape, draft.dtype))], {"blocksize": 2})

    return make


def _top_k(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    axis = _axis(draft, x)
    k = draft.parameter([draft.integer(1, draft.of(x).shape[axis])])
    return Proposal("TopK", [x, k], {"axis": axis, "largest": draft.integer(0, 1)}, 2)


# -- indices ---------------------------------------------------------------------------------------


def _indices(draft: Draft, extent: int, shape: tuple[int, ...]) -> str:
    return draft.fresh(draft.rng.integers(-extent, extent, shape))


def _gather(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    axis = _axis(draft, x)
    indices = _indices(draft, draft.of(x).shape[axis], draft.shape(draft.integer(0, 2)))
    return Proposal("Gather", [x, indices], {"axis": axis})


def _gather_elements(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    axis, shape = _axis(draft, x), draft.of(x).shape
    indices = _indices(draft, shape[axis], tuple(draft.integer(1, e) for e in shape))
    return Proposal("GatherElements", [x, indices], {"axis": axis})


def _gather_nd(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    shape = draft.of(x).shape
    depth = draft.integer(1, len(shape))
    last = [draft.rng.integers(0, e, (draft.integer(1, 4), 1)) for e in shape[:1]]
    rows = len(last[0])
    columns = [draft.rng.integers(0, e, (rows, 1)) for e in shape[:depth]]
    return Proposal("GatherND", [x, draft.fresh(np.concatenate(columns, axis=1))])


def _scatter_elements(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3))
    array = draft.of(x)
    axis = _axis(draft, x)
    indices = np.argsort(draft.rng.random(array.shape), axis=axis)
    updates = draft.numbers(array.shape, array.dtype.name)
    reduction = draft.choice(("none", "add", "max", "min"))
    inputs = [x, draft.fresh(indices), draft.fresh(updates)]
    return Proposal("ScatterElements", inputs, {"axis": axis, "reduction": reduction})


def _one_hot(draft: Draft) -> Proposal:
    indices = draft.fresh(draft.rng.integers(-4, 4, draft.shape(draft.integer(0, 2))))
    values = draft.parameter([0, 1], draft.dtype)
    return Proposal(
        "OneHot", [indices, draft.parameter(4), values], {"axis": draft.choice((-1, 0))}
    )


def _where(draft: Draft) -> Proposal:
    x = draft.some()
    drawn = draft.fresh(draft.numbers(draft.of(x).shape, "bool"))
    condition = draft.some("bool") if draft.likely(0.3) else drawn
    return Proposal("Where", [condition, x, draft.like(x)])


def _concat(draft: Draft) -> Proposal:
    x = draft.some(rank=(1, 2, 3, 4))
    others = [draft.like(x, broadcast=False) for _ in range(draft.integer(1, 3))]
    return Proposal("Concat", [x, *others], {"axis": _axis(draft, x)})


def _quantize(op: str) -> Generator:
    def make(draft: Draft) -> Proposal:
        kind = draft.choice(("uint8", "int8"))
        x = draft.some("float32") if op == "QuantizeLinear" else draft.some(kind)
        scale = draft.parameter(0.25, "float32")
        return Proposal(op, [x, scale, draft.parameter(draft.integer(0, 9), kind)])

    return make


GENERATORS: dict[str, Generator] = {
    **{n: _with_axis(n) for n in ("Softmax", "LogSoftmax", "Hardmax", "Flatten")},
    **{
        f"Reduce{n}": _reduce(f"Reduce{n}")
        for n in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
    },
    **{n: _arg(n) for n in ("ArgMax", "ArgMin")},
    **{n: _squeeze(n) for n in ("Squeeze", "Unsqueeze")},
    **{n: _cumulative(n) for n in ("CumSum", "CumProd")},
    **{n: _blocks(n) for n in ("DepthToSpace", "SpaceToDepth")},
    **{n: windowed(n) for n in ("Conv", "ConvTranspose")},
    **{n: pooling(n) for n in ("MaxPool", "AveragePool", "LpPool")},
    **{n: _quantize(n) for n in ("QuantizeLinear", "DequantizeLinear")},
    "InstanceNormalization": channel_norm("InstanceNormalization", 2),
    "GroupNormalization": channel_norm("GroupNormalization", 2),
    "BatchNormalization": channel_norm("BatchNormalization", 4),
    "LSTM": recurrent("LSTM", 4), "GRU": recurrent("GRU", 3), "RNN": recurrent("RNN", 1),
    "QLinearMatMul": qlinear_mat_mul,
    "GlobalMaxPool": global_max_pool, "GridSample": grid_sample,
    "Reshape": _reshape, "Transpose": _transpose, "Slice": _slice, "Split": _split, "Pad": _pad,
    "Tile": _tile, "Expand": _expand, "Cast": _cast, "CastLike": _cast_like, "Clip": _clip,
    "Trilu": _trilu,
    "TopK": _top_k, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements, "OneHot": _one_hot, "Where": _where, "Concat": _concat,
    "MatMul": mat_mul, "Gemm": gemm, "LayerNormalization": layer_norm, "Resize": resize,
}  # fmt: skip
