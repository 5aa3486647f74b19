"""Choosing a target: this machine, or one named by triple and CPU."""

from __future__ import annotations

import platform
from collections.abc import Collection

import llvmlite.binding as llvm

from whet.codegen.objects.probe import probe_features
from whet.errors import TargetError, nearest
from whet.target import Target

AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
AVX2 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt")
NEON = ("neon",)

# What LLVM may use of its own accord where the CPU has it. Code for this machine then requires it;
# code for a named CPU goes without, so that it runs on every CPU of the same vector unit, but with
# the dot products of 8-bit integers that an x86-64 CPU has, and those of bfloat16 where they are
# fast, which are worth a factor of two to four, and with what the name asks for.
X86_EXTRAS = (
    "avx512bf16", "avx512bitalg", "avx512fp16", "avx512ifma", "avx512vbmi", "avx512vbmi2",
    "avx512vnni", "avx512vpopcntdq", "avxifma", "avxneconvert", "avxvnni", "avxvnniint8",
    "avxvnniint16", "gfni",
)  # fmt: skip
ARM_EXTRAS = (
    "bf16", "complxnum", "cssc", "dotprod", "fp16fml", "fullfp16", "i8mm", "mops", "rdm", "sha3",
    "sve",
)  # fmt: skip

_USED = {
    "x86_64": ("avx512vbmi", "avx512vnni", "avxvnni"),
    "aarch64": ("bf16", "dotprod", "i8mm"),
}
"""Features that a name can ask for: those that multiply 8-bit integers or bfloat16, or look up."""

_FAST_PAIRS = ("znver4", "znver5")
"""CPUs that multiply pairs of bfloat16 as fast as single floats.

Intel's take four times as long: ResNet-50 took 46 ms in pairs, 25 in float32 (Emerald Rapids).
"""

_NARROW = ("znver4",)
"""CPUs that take two halves of a vector of AVX-512 at a time, and add beside multiply-adds."""

# Kept where a named AArch64 CPU has them, because threads meet through atomics.
ARM_ATOMICS = ("lse", "rcpc")


def resolve_target(name: str) -> Target:
    """Return the target of an option value: ``host`` or ``<triple>:<cpu>[+<feature>…]``.

    Raises:
        TargetError: the triple or CPU is unknown, or has no vector unit that Whet supports.
    """
    return host_target() if name == "host" else named_target(name)


def host_target() -> Target:
    """Return this machine as a target."""
    features = dict(llvm.get_host_cpu_features())
    triple = f"{platform.machine()}-unknown-linux-gnu"
    flat = ",".join(("+" if on else "-") + key for key, on in sorted(features.items()))
    has = {key for key, on in features.items() if on}
    cpu = llvm.get_host_cpu_name()
    if triple.startswith("aarch64"):
        return _arm(triple, cpu, f"{flat},-sve" if flat else "-sve", has - {"sve"})
    return _x86(triple, cpu, flat, has)


def named_target(name: str) -> Target:
    """Return a target written as ``<triple>:<cpu>``, with features such as ``+dotprod`` behind."""
    triple, _, rest = name.partition(":")
    cpu, *asked = rest.split("+")
    if not cpu:
        raise TargetError(f"target {name!r} names no CPU", hint='write "<triple>:<cpu>" or "host"')
    architecture = triple.split("-")[0]
    if architecture not in ("x86_64", "aarch64"):
        raise TargetError(
            f"no code generator for {triple!r}", hint="x86_64 and aarch64 are supported"
        )
    known = _USED[architecture]
    for feature in asked:
        if feature not in known:
            raise TargetError(
                f"target {name!r} asks for {feature!r}, which makes no difference",
                hint=nearest(feature, known),
            )
    has = probe_features(triple, cpu) | set(asked)
    if architecture == "aarch64":
        return _arm(triple, cpu, _only(asked, ARM_EXTRAS), has)
    if "avx512f" in has:
        has |= set(AVX512)
    if "vnni" in has:
        has |= {"avx512vnni" if "avx512f" in has else "avxvnni"}
    if cpu in _FAST_PAIRS:
        has |= {"avx512bf16"}
    has |= set(AVX2) if "avx2" in has else set()
    return _x86(triple, cpu, _only(has, X86_EXTRAS), has)


def _only(kept: Collection[str], features: tuple[str, ...]) -> str:
    """Say which of some features LLVM may use."""
    return ",".join(f"{'+' if name in kept else '-'}{name}" for name in features)


def _arm(triple: str, cpu: str, features: str, has: set[str]) -> Target:
    extras = sorted(has & {*ARM_EXTRAS, *ARM_ATOMICS})
    l1_bytes, l2_bytes = 32 * 1024, 512 * 1024
    return Target(
        triple,
        cpu,
        features,
        (*NEON, *extras),
        16,
        32,
        l1_bytes,
        l2_bytes,
        lane_fma=True,
        dot=next((name for name in ("i8mm", "dotprod") if name in extras), ""),
        bfloat16_dot="bf16" in extras,
    )


def _x86(triple: str, cpu: str, features: str, has: set[str]) -> Target:
    extras = sorted(has & set(X86_EXTRAS))
    if set(AVX512) <= has:
        wide = ",".join(p for p in (features, "-prefer-256-bit") if p)
        dot = "vnni" if "avx512vnni" in extras else "pairs"
        return Target(
            triple,
            cpu,
            wide,
            (*AVX512, *AVX2, *extras),
            64,
            32,
            48 * 1024,
            dot=dot,
            bfloat16_dot="avx512bf16" in extras and cpu in _FAST_PAIRS,
            byte_tables="avx512vbmi" in extras,
            products_per_cycle=1 if cpu in _NARROW else 2,
            adds_apart=cpu in _NARROW,
        )
    if set(AVX2) <= has:
        dot = "vnni" if "avxvnni" in extras else "pairs"
        return Target(triple, cpu, features, (*AVX2, *extras), 32, 16, dot=dot)
    raise TargetError(
        f"CPU {cpu!r} has neither AVX2 with FMA nor AVX-512",
        hint="Whet needs an x86-64 CPU of 2013 or later, or AArch64",
    )


def _machine(triple: str, cpu: str, features: str) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        chosen = llvm.Target.from_triple(triple)
        return chosen.create_target_machine(
            cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
        )
    except RuntimeError as error:
        raise TargetError(f"LLVM refuses target {triple}:{cpu}: {error}") from error


def target_machine(target: Target) -> llvm.TargetMachine:
    """Return LLVM's code generator for a target.

    LLVM would part sums of products of 16-bit integers into two instructions for most CPUs: that
    shortens a chain of them, but sums are many and independent, and registers run out.
    """
    whole = "+fast-dpwssd" if target.dot == "vnni" else ""
    features = ",".join(part for part in (target.features, whole) if part)
    return _machine(target.triple, target.cpu, features)
