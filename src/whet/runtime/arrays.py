"""Checks of the arrays that callers give, and the memory of those that they get."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np

from whet.dtypes import DTYPES, numpy_dtype
from whet.errors import InputError, ResourceError, nearest
from whet.index import Dim, Poly
from whet.limits import require_memory
from whet.program.records import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]
_ALIGNMENT = 64
_SMALL_BYTES = 16384
"""Below this size of an output it does not matter where it starts."""

_POINTER = ctypes.c_size_t
_DATA_POINTER = object.__basicsize__
"""Where an array holds the address of its data: right behind the header that all objects have.

NumPy's C interface fixes it (``PyArrayObject_fields``), and compiled extensions rely on it.
"""


class Port(msgspec.Struct, frozen=True):
    """One input or output, with what is looked up on every call.

    Attributes:
        name: its name.
        dtype: its NumPy type, in native byte order.
        shape: the shape if it is static, else ``None``.
        axes: the shape as polynomials.
        spec: what the caller sees.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    axes: tuple[Poly, ...]
    spec: TensorSpec


def make_port(spec: TensorSpec, axes: Sequence[Poly]) -> Port:
    """Return the port of an input or output.

    A value that is no array, such as a sequence, gets a port whose ``dtype`` is ``object``.
    """
    sizes = [axis.constant for axis in axes]
    static = tuple(s for s in sizes if s is not None)
    shape = static if len(static) == len(sizes) else None
    dtype = numpy_dtype(spec.dtype) if spec.dtype in DTYPES else np.dtype(object)
    return Port(spec.name, dtype, shape, tuple(axes), spec)


def collect_inputs(ports: Sequence[Port], inputs: Mapping[str, Any]) -> list[Array]:
    """Return the inputs in order, contiguous, aligned and in native byte order.

    Arrays that already are so are used as they are.

    Raises:
        InputError: a name is missing or unknown, or a type or static shape differs.
    """
    if type(inputs) is not dict and not isinstance(inputs, Mapping):
        raise _not_mapping(inputs, ports, "inputs")
    for port in ports:
        if port.name not in inputs:
            raise _missing(ports, inputs)
    if len(inputs) != len(ports):
        raise _unknown(inputs, ports, "input")
    return [check_port(inputs[port.name], port) for port in ports]


def check_names(ports: Sequence[Port], inputs: Mapping[str, Any]) -> None:
    """Check that there is one input for every port.

    Raises:
        InputError: a name is missing or unknown.
    """
    if not isinstance(inputs, Mapping):
        raise _not_mapping(inputs, ports, "inputs")
    if any(port.name not in inputs for port in ports):
        raise _missing(ports, inputs)
    if len(inputs) != len(ports):
        raise _unknown(inputs, ports, "input")


def check_port(value: Any, port: Port) -> Array:
    """Return an array contiguous, aligned and in native byte order.

    Raises:
        InputError: its type or static shape differs.
    """
    if type(value) is not np.ndarray:
        value = _as_array(value, port)
    if value.dtype is not port.dtype and value.dtype != port.dtype:
        value = _converted(value, port)
    if port.shape is not None and value.shape != port.shape:
        raise _shape_error(value.shape, port)
    flags = value.flags
    if flags.c_contiguous and flags.aligned:
        return value  # type: ignore[no-any-return]
    try:
        return np.array(value, dtype=port.dtype, order="C", copy=True)
    except MemoryError as error:
        raise ResourceError(
            f"{value.nbytes} bytes for a contiguous copy cannot be had",
            where=f"input {port.name!r}",
        ) from error


def _as_array(value: Any, port: Port) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{type(value).__name__} is not an array: {error}", where=f"input {port.name!r}"
        ) from error


def _converted(value: Array, port: Port) -> Array:
    if value.dtype.newbyteorder("=") == port.dtype:
        return value.astype(port.dtype)
    raise InputError(
        f"dtype is {value.dtype}, the model takes {port.dtype}",
        where=f"input {port.name!r}",
        hint=f"convert it: x.astype({port.spec.dtype!r})",
    )


def bind_dims(
    ports: Sequence[Port], names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> dict[str, int]:
    """Return the values of run-time dimensions for given input shapes.

    Raises:
        InputError: a rank or size differs, or two axes disagree on a dimension.
    """
    dims: dict[str, int] = {}
    origin: dict[str, str] = {}
    for port, shape in zip(ports, shapes, strict=True):
        if len(shape) != len(port.axes):
            raise _shape_error(shape, port)
        for axis, size in zip(port.axes, shape, strict=True):
            name = dim_name(axis)
            if name is not None and name not in dims:
                dims[name], origin[name] = size, port.name
    for port, shape in zip(ports, shapes, strict=True):
        for position, (axis, size) in enumerate(zip(port.axes, shape, strict=True)):
            wanted = axis.evaluate(dims)
            if wanted != size:
                name = dim_name(axis)
                hint = f"{name} is {wanted} in input {origin[name]!r}" if name else None
                raise InputError(
                    f"axis {position} is {size}, expected {wanted} in {port.spec.shape}",
                    where=f"input {port.name!r}",
                    hint=hint,
                )
    return {name: dims[name] for name in names}


def dim_name(axis: Poly) -> str | None:
    """Return the name of a dimension if a polynomial is exactly that."""
    if len(axis.terms) == 1:
        (atoms, factor) = axis.terms[0]
        if factor == 1 and len(atoms) == 1 and isinstance(atoms[0], Dim):
            return atoms[0].name
    return None


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array that starts at a multiple of 64 bytes.

    Raises:
        ResourceError: there is not enough memory, or the shape is beyond what NumPy takes, which
            one with a 0 in it may be, too.
    """
    size = math.prod(shape) * dtype.itemsize
    require_memory(size)
    try:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        return np.ndarray(shape, dtype, raw, -address_of(raw) % _ALIGNMENT)
    except (MemoryError, ValueError) as error:
        text = f"{size} bytes for an output of shape {shape} cannot be had"
        raise ResourceError(text) from error


def maker_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[], Array]:
    """Return what makes arrays for an output; a small one starts where NumPy puts it."""
    small = 0 < math.prod(shape) * dtype.itemsize < _SMALL_BYTES
    return partial(np.empty if small else empty_aligned, shape, dtype)


def address_of(array: Array) -> int:
    """Return where the data of an array starts.

    ``__array_interface__`` says it too, and takes 15 us more where caches are cold.
    """
    return _POINTER.from_address(id(array) + _DATA_POINTER).value or 0


def place_outputs(
    ports: Sequence[Port],
    shapes: Sequence[tuple[int, ...]],
    given: Mapping[str, Any] | None,
    inputs: Sequence[Array],
) -> list[Array]:
    """Return the output arrays: those given, checked, and new ones for the rest.

    Raises:
        InputError: a given array is unknown, or not of the type, shape and layout needed, or
            shares memory with an input or another output.
    """
    if given is None:
        return [maker_of(s, p.dtype)() for p, s in zip(ports, shapes, strict=True)]
    known = {port.name for port in ports}
    if not isinstance(given, Mapping):
        raise _not_mapping(given, ports, "outputs")
    if not known.issuperset(given):
        raise _unknown(given, ports, "output")
    results: list[Array] = []
    used = [_extent(array) for array in inputs]
    for port, shape in zip(ports, shapes, strict=True):
        if port.name not in given:
            results.append(maker_of(shape, port.dtype)())
            continue
        array = given[port.name]
        problem = _output_problem(array, port, shape, used)
        if problem:
            raise InputError(problem, where=f"output {port.name!r}")
        used.append(_extent(array))
        results.append(array)
    return results


def check_given(
    ports: Sequence[Port], given: Mapping[str, Any] | None, inputs: Sequence[Array]
) -> dict[str, Array]:
    """Return the caller's output arrays, checked as far as possible before shapes are known.

    Raises:
        InputError: as ``place_outputs`` does, but for shapes.
    """
    known = {port.name: port for port in ports}
    if given is not None and not isinstance(given, Mapping):
        raise _not_mapping(given, ports, "outputs")
    if not known.keys() >= (given or {}).keys():
        raise _unknown(given or {}, ports, "output")
    used = [_extent(array) for array in inputs]
    for name, array in (given or {}).items():
        problem = _output_problem(array, known[name], getattr(array, "shape", ()), used)
        if problem:
            raise InputError(problem, where=f"output {name!r}")
        used.append(_extent(array))
    return dict(given or {})


def settle_outputs(
    ports: Sequence[Port],
    results: Sequence[Array],
    given: Mapping[str, Array],
    inputs: Sequence[Array],
) -> dict[str, Array]:
    """Return results by name: in the caller's arrays, and none that shares memory.

    Raises:
        InputError: an array of the caller has another shape than the result.
    """
    found: dict[str, Array] = {}
    for port, result in zip(ports, results, strict=True):
        if port.dtype == object:
            found[port.name] = result
            continue
        own = given.get(port.name)
        if own is None:
            others = [o for o in (*inputs, *found.values()) if isinstance(o, np.ndarray)]
            shared = not result.flags.writeable or any(_overlap(result, o) for o in others)
            found[port.name] = np.array(result, order="C") if shared else result
            continue
        if own.shape != result.shape:
            problem = f"shape is {own.shape}, the model gives {result.shape}"
            raise InputError(problem, where=f"output {port.name!r}")
        if own is not result:
            own[...] = result
        found[port.name] = own
    return found


def _overlap(one: Array, other: Array) -> bool:
    (a, b), (begin, end) = _extent(one), _extent(other)
    return begin < b and a < end


def _output_problem(
    array: Any, port: Port, shape: tuple[int, ...], used: Sequence[tuple[int, int]]
) -> str:
    if not isinstance(array, np.ndarray):
        return f"{type(array).__name__} is not a NumPy array"
    if array.dtype != port.dtype:
        return f"dtype is {array.dtype}, the model gives {port.dtype}"
    if array.shape != shape:
        return f"shape is {array.shape}, the model gives {shape}"
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        return "the array is not contiguous, aligned and writable"
    begin, end = _extent(array)
    if any(begin < b and a < end for a, b in used):
        return "the array shares memory with an input or another output"
    return ""


def _extent(array: Array) -> tuple[int, int]:
    begin = address_of(array)
    return begin, begin + array.nbytes


def _not_mapping(given: Any, ports: Sequence[Port], what: str) -> InputError:
    return InputError(
        f"{what} are a {type(given).__name__}, not a mapping from names to arrays",
        hint=f"names: {', '.join(port.name for port in ports)}",
    )


def _missing(ports: Sequence[Port], inputs: Mapping[str, Any]) -> InputError:
    names = [port.name for port in ports]
    missing = [name for name in names if name not in inputs]
    extra = [str(name) for name in inputs if name not in names]
    hint = f"given but unknown: {', '.join(sorted(extra))}" if extra else None
    return InputError(f"missing inputs: {', '.join(missing)}", hint=hint)


def _unknown(given: Mapping[str, Any], ports: Sequence[Port], what: str) -> InputError:
    names = [port.name for port in ports]
    extra = sorted(str(name) for name in given if name not in names)
    return InputError(f"unknown {what}s: {', '.join(extra)}", hint=nearest(extra[0], names))


def _shape_error(shape: tuple[int, ...], port: Port) -> InputError:
    return InputError(
        f"shape is {shape}, the model takes {port.spec.shape}", where=f"input {port.name!r}"
    )
