"""LLVM text of the two kernels that find a machine's limits: multiply-add and memory read."""

from __future__ import annotations

READ_STREAMS = 8


def _header(name: str) -> list[str]:
    return [
        f"define void @{name}(ptr %data, i64 %count) {{",
        "entry:",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [0, %entry], [%next, %loop]",
    ]


def _footer(vector: str, values: list[str]) -> list[str]:
    """Close the loop and store all values, so that no work is dead."""
    lines = [
        "  %next = add i64 %i, 1",
        "  %more = icmp slt i64 %next, %count",
        "  br i1 %more, label %loop, label %exit",
        "exit:",
    ]
    for index, value in enumerate(values):
        lines.append(f"  %p{index} = getelementptr {vector}, ptr %data, i64 {index + 1}")
        lines.append(f"  store {vector} {value}, ptr %p{index}, align 4")
    return [*lines, "  ret void", "}"]


def multiply_add_text(name: str, lanes: int, chains: int) -> str:
    """Return a kernel of ``chains`` independent f32 multiply-adds per step.

    ``name(data, count)`` makes ``count * chains * lanes * 2`` operations; ``data`` holds one
    scalar and then room for ``chains`` vectors. Chains must cover latency times issue width and
    fit the registers.
    """
    vector = f"<{lanes} x float>"
    phis = [
        f"  %a{k} = phi {vector} [zeroinitializer, %entry], [%b{k}, %loop]" for k in range(chains)
    ]
    body = [
        "  %scalar = load volatile float, ptr %data",
        f"  %one = insertelement {vector} poison, float %scalar, i32 0",
        f"  %v = shufflevector {vector} %one, {vector} poison, <{lanes} x i32> zeroinitializer",
    ]
    fma = f"@llvm.fma.v{lanes}f32"
    body += [
        f"  %b{k} = call {vector} {fma}({vector} %v, {vector} %v, {vector} %a{k})"
        for k in range(chains)
    ]
    lines = _header(name) + phis + body + _footer(vector, [f"%b{k}" for k in range(chains)])
    return "\n".join([*lines, f"declare {vector} {fma}({vector}, {vector}, {vector})", ""])


def read_text(name: str, lanes: int) -> str:
    """Return a kernel that adds up memory: ``count`` steps of ``READ_STREAMS`` vectors each."""
    vector = f"<{lanes} x i32>"
    streams = range(READ_STREAMS)
    phis = [f"  %a{k} = phi {vector} [zeroinitializer, %entry], [%b{k}, %loop]" for k in streams]
    body = [f"  %base = mul i64 %i, {READ_STREAMS}"]
    for k in streams:
        body += [
            f"  %at{k} = add i64 %base, {k}",
            f"  %q{k} = getelementptr {vector}, ptr %data, i64 %at{k}",
            f"  %x{k} = load {vector}, ptr %q{k}, align 4",
            f"  %b{k} = add {vector} %a{k}, %x{k}",
        ]
    lines = _header(name) + phis + body + _footer(vector, [f"%b{k}" for k in streams])
    return "\n".join([*lines, ""])
