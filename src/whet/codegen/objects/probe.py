"""Which features LLVM gives a CPU by name, found out by what its assembly for a probe uses.

LLVM only warns of a CPU it does not know, or ends the process, and lists no features; so the
question is asked in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from types import MappingProxyType

import llvmlite.binding as llvm

from whet.errors import TargetError

_ADD = "define i64 @p(ptr %p) {\n%r = atomicrmw add ptr %p, i64 1 monotonic\nret i64 %r\n}\n"
_ACQUIRE = "define i64 @p(ptr %p) {\n%r = load atomic i64, ptr %p acquire, align 8\nret i64 %r\n}\n"
_FMA = (
    "define <16 x float> @p(<16 x float> %a) {\n"
    "%r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %a, <16 x float> %a)\n"
    "ret <16 x float> %r\n}\n"
    "declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)\n"
)
_WIDE = "define <32 x i16> @p(<32 x i16> %a) {\n%r = add <32 x i16> %a, %a\nret <32 x i16> %r\n}\n"
_PAIRS = (
    "define <4 x i32> @p(<4 x i32> %t, <8 x i16> %a, <8 x i16> %b) {\n"
    "%r = call <4 x i32> @llvm.x86.sse2.pmadd.wd(<8 x i16> %a, <8 x i16> %b)\n"
    "%s = add <4 x i32> %t, %r\nret <4 x i32> %s\n}\n"
    "declare <4 x i32> @llvm.x86.sse2.pmadd.wd(<8 x i16>, <8 x i16>)\n"
)

# Feature, probe, and what its assembly then holds. AVX-512 is asked for with its 16-bit integers.
PROBES = MappingProxyType(
    {
        "x86_64": (
            ("avx2", _FMA, "vfmadd"),
            ("avx512f", _WIDE, "%zmm"),
            ("vnni", _PAIRS, "vpdpwssd"),
        ),
        "aarch64": (("lse", _ADD, "ldadd"), ("rcpc", _ACQUIRE, "ldapr")),
    }
)


def probe_features(triple: str, cpu: str) -> set[str]:
    """Return which of the features in ``PROBES`` a CPU has.

    Raises:
        TargetError: LLVM does not know the CPU.
    """
    done = subprocess.run(
        [sys.executable, "-m", "whet.codegen.objects.probe", triple, cpu],
        capture_output=True,
        text=True,
        check=False,
    )
    if "not a recognized processor" in done.stderr:
        raise TargetError(
            f"LLVM knows no CPU {cpu!r} for {triple}",
            hint="CPUs are named as by clang -mcpu=help, such as haswell or neoverse-n1",
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise TargetError(f"LLVM refuses target {triple}:{cpu}: {reason}")
    return set(done.stdout.split())


def _main(triple: str, cpu: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    architecture = triple.split("-")[0]
    features = "-prefer-256-bit" if architecture == "x86_64" else ""
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, opt=1)
    for feature, probe, sign in PROBES[architecture]:
        if sign in machine.emit_assembly(llvm.parse_assembly(probe)):
            sys.stdout.write(f"{feature}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
