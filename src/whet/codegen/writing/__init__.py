"""Values and expressions to LLVM instructions."""
