"""Choosing a target: this machine, or one named by triple and CPU."""

from __future__ import annotations

import platform

import llvmlite.binding as llvm

from whet.errors import TargetError
from whet.target import Target

AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
AVX2 = ("avx2", "fma", "f16c")
NEON = ("neon",)


def resolve_target(name: str) -> Target:
    """Return the target of an option value: ``host`` or ``<triple>:<cpu>``.

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
    if triple.startswith("aarch64"):
        has |= set(NEON)
    return _describe(triple, llvm.get_host_cpu_name(), flat, has)


def named_target(name: str) -> Target:
    """Return a target written as ``<triple>:<cpu>``."""
    triple, _, cpu = name.partition(":")
    if not cpu:
        raise TargetError(f"target {name!r} names no CPU", hint='write "<triple>:<cpu>" or "host"')
    if triple.split("-")[0] not in ("x86_64", "aarch64"):
        raise TargetError(
            f"no code generator for {triple!r}", hint="x86_64 and aarch64 are supported"
        )
    return _describe(triple, cpu, "", _features_of(triple, cpu))


def _features_of(triple: str, cpu: str) -> set[str]:
    """Find which vector features LLVM gives a CPU, by what its assembly for a probe uses."""
    if triple.startswith("aarch64"):
        return set(NEON)
    machine = _machine(triple, cpu, "")
    probe = (
        "define <16 x float> @p(<16 x float> %a) {\n"
        "%r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %a, <16 x float> %a)\n"
        "ret <16 x float> %r\n}\n"
        "declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)\n"
    )
    assembly = machine.emit_assembly(llvm.parse_assembly(probe))
    if "%zmm" in assembly:
        return {*AVX512, *AVX2}
    return set(AVX2) if "vfmadd" in assembly and "%ymm" in assembly else set()


def _describe(triple: str, cpu: str, features: str, has: set[str]) -> Target:
    if triple.startswith("aarch64"):
        return Target(triple, cpu, features, NEON, 16, 32)
    if set(AVX512) <= has:
        wide = ",".join(p for p in (features, "-prefer-256-bit") if p)
        return Target(triple, cpu, wide, (*AVX512, *AVX2), 64, 32, 48 * 1024)
    if set(AVX2) <= has:
        return Target(triple, cpu, features, AVX2, 32, 16)
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
    """Return LLVM's code generator for a target."""
    return _machine(target.triple, target.cpu, target.features)
