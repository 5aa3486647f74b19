"""The order of the passes, and everything around them: time, counts, checks and blame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import onnx_ir as ir

from whet.errors import CompileError, OptionError, WhetError, nearest
from whet.graph.edit import RewriteBudget
from whet.graph.infer import infer_shapes
from whet.graph.verify import find_fault
from whet.limits import Budget
from whet.passes.convolve_transposed import convolve_transposed
from whet.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from whet.passes.eliminate_dead_code import eliminate_dead_code
from whet.passes.eliminate_identity import eliminate_identity
from whet.passes.eliminate_shape_subgraphs import eliminate_shape_subgraphs
from whet.passes.fold_batchnorm import fold_batchnorm
from whet.passes.fold_constants import fold_constants
from whet.passes.fold_pad import fold_pad
from whet.passes.fold_requantise import fold_requantise
from whet.passes.fold_scale import fold_scale
from whet.passes.fuse_gelu import fuse_gelu
from whet.passes.fuse_hardswish import fuse_hardswish
from whet.passes.fuse_layernorm import fuse_layernorm
from whet.passes.fuse_matmul_add import fuse_matmul_add
from whet.passes.fuse_rmsnorm import fuse_rmsnorm
from whet.passes.fuse_silu import fuse_silu
from whet.passes.gather_quantised import gather_quantised
from whet.passes.merge_matmuls import merge_matmuls
from whet.passes.merge_reshapes import merge_reshapes
from whet.passes.merge_transposes import merge_transposes
from whet.passes.move_quantised import move_quantised
from whet.passes.multiply_in_integers import multiply_in_integers
from whet.passes.restore_dequantise import restore_dequantise
from whet.passes.unsign_activations import unsign_activations

MAX_ROUNDS = 8
"""A clean-up that still changes something after this many rounds is left there."""


class PassEntry(msgspec.Struct, frozen=True):
    """A pass in the table.

    Attributes:
        run: the pass.
        level: the lowest ``opt_level`` at which it runs unless a switch says otherwise.
        budgeted: whether it takes the budget of the compilation, as ``budget``.
    """

    run: Callable[..., int]
    level: int
    budgeted: bool = False

    @property
    def name(self) -> str:
        """The name by which switches and messages call the pass."""
        return self.run.__name__


class PassRecord(msgspec.Struct, frozen=True):
    """What one run of one pass did.

    Attributes:
        index: position in the sequence of runs, from 0.
        name: the pass.
        rewrites: how many rewrites it made.
        seconds: time of the pass without its verification.
    """

    index: int
    name: str
    rewrites: int
    seconds: float


CLEANUP = (
    PassEntry(restore_dequantise, 1),
    PassEntry(fold_constants, 0, budgeted=True),
    PassEntry(eliminate_shape_subgraphs, 0),
    PassEntry(eliminate_identity, 1),
    PassEntry(merge_reshapes, 1),
    PassEntry(merge_transposes, 1),
    PassEntry(eliminate_common_subexpressions, 1),
    PassEntry(eliminate_dead_code, 0),
)
"""Repeated until nothing changes, before and after the rewrites."""

REWRITES = (
    PassEntry(gather_quantised, 2),
    PassEntry(move_quantised, 2),
    PassEntry(convolve_transposed, 2),
    PassEntry(move_quantised, 2),
    PassEntry(multiply_in_integers, 2),
    PassEntry(unsign_activations, 2),
    PassEntry(fold_pad, 1),
    PassEntry(fold_batchnorm, 1),
    PassEntry(fold_scale, 1),
    PassEntry(fuse_layernorm, 2),
    PassEntry(fuse_rmsnorm, 2),
    PassEntry(fuse_gelu, 2),
    PassEntry(fuse_silu, 2),
    PassEntry(fuse_hardswish, 2),
    PassEntry(merge_matmuls, 2),
    PassEntry(fuse_matmul_add, 2),
    PassEntry(fold_requantise, 2),
)
"""Run once, in this order."""


LOWERING = MappingProxyType(
    {
        "tabulate_bytes": 2,
        "fuse_quantised_norms": 2,
        "fuse_quantised_products": 2,
        "fuse_query_rotation": 2,
        "fuse_cache_writes": 2,
        "add_products": 3,
        "gate_products": 3,
        "store_bytes": 2,
        "winograd_bytes": 2,
        "compute_in_copies": 2,
        "join_parts": 2,
        "fetch_ahead": 2,
        "pair_products": 3,
        "pool_products": 2,
        "chain_products": 2,
        "update_in_place": 2,
        "share_kernels": 2,
    }
)
"""Rewrites of kernels instead of graphs, which lowering makes, and their levels."""


def pass_names() -> tuple[str, ...]:
    """Return the names of all passes, in the order in which they first run."""
    entries = (*CLEANUP, infer_entry(), *REWRITES)
    return (*dict.fromkeys(entry.name for entry in entries), *LOWERING)


def lowering_limits(opt_level: int, switches: Mapping[str, bool | int]) -> dict[str, int | None]:
    """Return how many rewrites of each kind lowering may make, ``None`` for any number."""
    chosen = {name: switches.get(name, opt_level >= level) for name, level in LOWERING.items()}
    return {name: _limit(switch) for name, switch in chosen.items()}


def _limit(switch: bool | int) -> int | None:
    if isinstance(switch, bool):
        return None if switch else 0
    return switch


def optional_passes(opt_level: int, switches: Mapping[str, bool | int]) -> tuple[str, ...]:
    """Return the passes that would run and that compilation does not need, in their order."""
    levels = {entry.name: entry.level for entry in (*CLEANUP, *REWRITES)} | LOWERING
    return tuple(
        name
        for name, level in levels.items()
        if level > 0 and switches.get(name, opt_level >= level) is not False
    )


def infer_entry() -> PassEntry:
    """Return the entry of shape inference, which follows every clean-up that changed something."""
    return PassEntry(infer_shapes, 0)


def run_passes(
    model: ir.Model,
    *,
    opt_level: int,
    switches: Mapping[str, bool | int] | None = None,
    observe: Callable[[PassRecord], None] | None = None,
    budget: Budget | None = None,
) -> list[PassRecord]:
    """Optimise a canonical model in place.

    Args:
        model: as ``load_model`` returns it.
        opt_level: passes run from their own level on; see ``PassEntry``.
        switches: passes by name that run, or do not, whatever the level; a number lets a pass
            make so many rewrites in all.
        observe: called after every pass, while the model is as the pass left it.
        budget: time and memory of the compilation, looked at before every pass.

    Returns:
        One record for each run of a pass, in order.

    Raises:
        OptionError: a switch names no pass.
        ResourceError: the budget is used up.
        CompileError: a pass failed or left a broken graph; the message blames it.
    """
    chosen = dict(switches or {})
    for name in chosen:
        if name not in pass_names():
            raise OptionError(
                f"there is no pass {name!r}", where="passes", hint=nearest(name, pass_names())
            )
    limits = {name: n for name, n in chosen.items() if not isinstance(n, bool)}
    run = _Run(model, opt_level, chosen, observe, budget or Budget(), left=limits)
    run.cleanup()
    if sum(run.once(entry) for entry in REWRITES):
        run.cleanup()
    return run.records


class _Run(msgspec.Struct, frozen=True):
    model: ir.Model
    opt_level: int
    switches: Mapping[str, bool | int]
    observe: Callable[[PassRecord], None] | None
    budget: Budget
    records: list[PassRecord] = msgspec.field(default_factory=list)
    left: dict[str, int] = msgspec.field(default_factory=dict)

    def cleanup(self) -> None:
        for _ in range(MAX_ROUNDS):
            changed = sum(self.once(entry) for entry in CLEANUP)
            if not changed:
                return
            self.once(infer_entry())

    def once(self, entry: PassEntry) -> int:
        if self.switches.get(entry.name, self.opt_level >= entry.level) is False:
            return 0
        start = time.perf_counter()
        try:
            self.budget.check("optimisation")
            rewrites = self._limited(entry)
        except WhetError as error:
            error.where = f"{self._blame(entry)}{f', {error.where}' if error.where else ''}"
            raise
        except Exception as error:
            raise CompileError(
                f"a pass failed: {type(error).__name__}: {error}",
                where=self._blame(entry),
                hint=f'switch it off with passes={{"{entry.name}": False}}, and report this',
            ) from error
        record = PassRecord(len(self.records), entry.name, rewrites, time.perf_counter() - start)
        self._verify(entry, rewrites)
        self.records.append(record)
        if self.observe is not None:
            self.observe(record)
        return rewrites

    def _limited(self, entry: PassEntry) -> int:
        """Run a pass, with no more rewrites than it has left if they are limited."""
        extra = {"budget": self.budget} if entry.budgeted else {}
        left = self.left.get(entry.name)
        if left is None:
            return entry.run(self.model, **extra)
        with RewriteBudget(self.model, left) as budget:
            entry.run(self.model, **extra)
        self.left[entry.name] = left - budget.spent
        return budget.spent

    def _verify(self, entry: PassEntry, rewrites: int) -> None:
        fault = find_fault(self.model, typed=True) if rewrites else None
        if fault is not None:
            raise CompileError(
                f"a pass broke the graph: {fault[0]}, {fault[1]}",
                where=self._blame(entry),
                hint=f'switch it off with passes={{"{entry.name}": False}}, and report this',
            )

    def _blame(self, entry: PassEntry) -> str:
        before = [r.name for r in self.records if r.rewrites]
        after = f", after {', '.join(before[-5:])}" if before else ""
        return f"pass #{len(self.records)} {entry.name}{after}"
