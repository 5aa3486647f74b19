"""Vector maths written inline as LLVM IR: no library is called."""

from whet.codegen.vmath.table import FUNCTIONS, MathFunction, instructions

__all__ = ["FUNCTIONS", "MathFunction", "instructions"]
