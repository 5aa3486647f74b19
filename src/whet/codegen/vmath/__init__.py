"""Vector maths written inline as LLVM IR: no library is called.

Each function of `FUNCTIONS` writes multiply-adds, comparisons, selections, integer operations and
a few divisions or square roots, on any number of lanes of ``float`` or ``double``. The target needs
fused multiply-add and rounding instructions (x86-64-v3, AArch64). A result has the same bits on
every target and lane count. Errors in docstrings (f32 / f64) were measured over millions of
samples; the table states bounds just above them, which the tests check.

sin, cos, tan, fmod and mod write a rare branch or loop and so end in another block than they began.
"""

from whet.codegen.vmath.table import FUNCTIONS, MathFunction, instructions

__all__ = ["FUNCTIONS", "MathFunction", "instructions"]
