"""LLVM IR text to object code."""

from __future__ import annotations

import llvmlite.binding as llvm

from whet.codegen.objects.targets import target_machine
from whet.errors import CompileError
from whet.target import Target


def compile_ir(text: str, target: Target) -> bytes:
    """Compile a module to an ELF object.

    Only the clean-up that straight kernels need is run: promotion of stack slots, instruction
    combining, control-flow simplification.

    Raises:
        CompileError: LLVM rejects the module.
    """
    machine = target_machine(target)
    return bytes(machine.emit_object(optimised_module(text, target, machine)))


def assembly_of(text: str, target: Target) -> str:
    """Return the assembly of a module, for dumps and tests."""
    machine = target_machine(target)
    return str(machine.emit_assembly(optimised_module(text, target, machine)))


def optimised_module(text: str, target: Target, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """Parse, verify and clean up a module."""
    try:
        module = llvm.parse_assembly(f'target triple = "{target.triple}"\n{text}')
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"generated code is invalid: {error}") from error
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module
