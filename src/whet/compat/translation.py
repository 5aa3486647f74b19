"""Command lines of other tools as command lines of ``whet``: options mapped, noted or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import whet
from whet.errors import OptionError, nearest
from whet.words import counted


@dataclass(frozen=True, slots=True)
class Used:
    """An option that acts; the translation of its tool reads it.

    Attributes:
        default: its documented value where it is not given; ``None`` if there is none.
    """

    default: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """An option that is accepted and has no meaning here.

    Attributes:
        why: why not.
    """

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An option that asks for something that there is not.

    Attributes:
        instead: the nearest equivalent.
    """

    instead: str


Rule = Used | Noted | Refused


@dataclass(frozen=True, slots=True)
class Given:
    """Options as they were given, checked against a table.

    Attributes:
        values: by name without dashes, defaults filled in.
        notes: what the user should know of options that do nothing.
    """

    values: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    def get(self, *names: str) -> str | None:
        """Return the first of several spellings that has a value."""
        return next((self.values[name] for name in names if self.values.get(name)), None)

    def need(self, *names: str) -> str:
        """Return the first of several spellings that has a value.

        Raises:
            OptionError: none has.
        """
        value = self.get(*names)
        if value is None:
            raise OptionError(f"--{names[0]} is missing", hint=f"give --{names[0]}=…")
        return value

    def choose(self, name: str, allowed: Mapping[str, str], instead: str) -> None:
        """Accept a value that changes nothing, with a note if it has one; refuse others.

        Raises:
            OptionError: the value is not allowed.
        """
        value = self.get(name)
        if value is None:
            return
        if value not in allowed:
            raise OptionError(f"--{name}={value} is not available", hint=instead)
        if allowed[value]:
            self.notes.append(f"--{name}={value}: {allowed[value]}")


@dataclass(frozen=True, slots=True)
class Translation:
    """What a foreign command line means.

    Attributes:
        command: arguments of ``whet``.
        notes: what the user should know.
        first: a line to print before.
        last: a line to print after success.
        report: gives figures to print after success, in the form of the foreign tool.
        save: a file, and what makes its content of what the command prints instead of that.
        fine: exit codes of the command that mean success.
        before: arguments of a command that has to succeed first; empty for none.
    """

    command: list[str]
    notes: list[str]
    first: str = ""
    last: str = ""
    report: Callable[[], str] | None = None
    save: tuple[Path, Callable[[str], str]] | None = None
    fine: tuple[int, ...] = (0,)
    before: tuple[str, ...] = ()


def read_options(arguments: Sequence[str], table: Mapping[str, Rule]) -> Given:
    """Read ``--name=value``, ``--name value`` and ``--name``.

    Raises:
        OptionError: an option is unknown, refused, or given twice.
    """
    values: dict[str, str] = {
        k: r.default for k, r in table.items() if isinstance(r, Used) and r.default
    }
    given: set[str] = set()
    notes: list[str] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") or name not in table:
            raise OptionError(
                f"{word!r} is not an option", hint=nearest(name, [f"--{n}" for n in table])
            )
        if name in given:
            raise OptionError(f"--{name} is given twice", hint="leave one out")
        if not equals and pending and not pending[0].startswith("--"):
            value = pending.pop(0)
        given.add(name)
        rule = table[name]
        if isinstance(rule, Refused):
            raise OptionError(f"--{name} is not available", hint=rule.instead)
        if isinstance(rule, Noted):
            notes.append(f"--{name}: {rule.why}")
        else:
            value = value.strip("\"'") if equals else value.strip("\"'") or "true"
            values |= {name: value} if value else {}  # an empty one is the default
    return Given(values, notes)


def shape_arguments(text: str) -> list[str]:
    """Turn ``n:1,3,224,224;m:-1,16`` into ``--shape`` options; -1 and ranges stay open.

    Raises:
        OptionError: the text has another form.
    """
    arguments = []
    for part in filter(None, text.split(";")):
        name, colon, dims = part.rpartition(":")
        if not colon or not name or not dims:
            raise OptionError(
                f"the shape {part!r} is not name:1,3,224,224", hint="separate inputs with ;"
            )
        stem = "".join(c if c.isalnum() else "_" for c in name)
        sizes = [_size(dim.strip(), f"{stem}_{axis}") for axis, dim in enumerate(dims.split(","))]
        arguments += ["--shape", f"{name}:{','.join(sizes)}"]
    return arguments


def dim_arguments(text: str, model: Path) -> list[str]:
    """Turn shapes of a compiled file's inputs into ``--dim`` options for what it leaves open.

    Raises:
        OptionError: the text has another form, or a shape does not fit the file.
        ArtifactError: the file cannot be read.
    """
    specs = {spec.name: spec.shape for spec in whet.load(model, foreign=True).inputs}
    dims: dict[str, str] = {}
    for word in shape_arguments(text)[1::2]:
        name, _, sizes = word.rpartition(":")
        if name not in specs:
            raise OptionError(f"the model has no input {name!r}", hint=nearest(name, specs))
        given = sizes.split(",")
        pairs = list(zip(specs[name], given, strict=False))
        if len(given) != len(specs[name]) or any(
            dims.setdefault(d, n) != n if isinstance(d, str) else str(d) != n for d, n in pairs
        ):
            raise OptionError(
                f"the shape {sizes} does not fit {specs[name]}",
                where=f"input {name!r}",
                hint="give the shape that the file was compiled for",
            )
    return [a for d, n in dims.items() if n.isdigit() for a in ("--dim", f"{d}={n}")]


def _size(dim: str, name: str) -> str:
    if dim.isdigit():
        return dim
    if dim == "-1" or "~" in dim:
        return name
    raise OptionError(f"{dim!r} is not a size", hint="give a number, -1 or a range such as 1~8")


def check_profiles(given: Given, names: Sequence[str]) -> None:
    """Check options that list sizes, of which one may be given; any size runs here.

    Raises:
        OptionError: several are given, or a list has fewer than 2 or more than 100 entries.
    """
    present = [name for name in names if given.get(name)]
    if len(present) > 1:
        raise OptionError(
            f"--{present[0]} and --{present[1]} exclude each other", hint="leave one out"
        )
    for name in present:
        entries = given.need(name).split("," if name == "dynamic_batch_size" else ";")
        if not 2 <= len(entries) <= 100:
            counts = counted(len(entries), "value")
            raise OptionError(f"--{name} has {counts}", hint="give 2 to 100")


def compiled_path(text: str) -> str:
    """Return the compiled file that a name stands for: ``x.om`` and ``x.mindir`` are ``x.whet``."""
    path = Path(text)
    made = path.with_suffix(".whet")
    return str(made) if path.suffix in (".om", ".mindir", ".ms") and not path.exists() else text
