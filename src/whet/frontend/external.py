"""External data: constants whose bytes lie in files beside the model."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import onnx_ir as ir

from whet.errors import ModelError
from whet.mapped import MappedFile


def attach_external(model: ir.Model, folder: Path) -> list[MappedFile]:
    """Give external constants their data: arrays over the mapped files, each mapped once.

    Where they lie was checked by ``check_external_data``; what is opened is checked again, as it
    may have been replaced since.

    Returns:
        The mapped files.

    Raises:
        ModelError: a file is missing, too short, a link or no plain file by now.
    """
    files: dict[Path, MappedFile] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _attached(value.const_value, folder, files)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):
                    tensor = _attached(attribute.value, folder, files)
                    node.attributes[name] = ir.AttrTensor(name, tensor)
    return list(files.values())


def _attached(
    tensor: ir.ExternalTensor, folder: Path, files: dict[Path, MappedFile]
) -> ir.TensorProtocol:
    path, kind = folder / tensor.location, tensor.dtype
    packed = kind.bitwidth % 8 != 0
    element = np.dtype(np.uint8) if packed else kind.numpy()
    count = -(-tensor.size * kind.bitwidth // 8) // element.itemsize
    if not count:
        return ir.Tensor(np.zeros(tensor.shape.numpy(), kind.numpy()), kind, name=tensor.name)
    if path not in files:
        files[path] = _map(path)
    start = tensor.offset or 0
    view = files[path].view
    if start + count * element.itemsize > len(view):
        raise _fault("is too short", path, tensor.name)
    array = np.frombuffer(view, element, count, start)
    if packed:
        return ir.PackedTensor(array, kind, shape=tensor.shape, name=tensor.name)
    return ir.Tensor(array.reshape(tensor.shape.numpy()), kind, name=tensor.name)


def _map(path: Path) -> MappedFile:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise _fault(f"cannot be read: {error.strerror}", path, None) from error
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1 or not state.st_size:
            raise _fault("is no plain file, is hard-linked elsewhere or is empty", path, None)
        return MappedFile(handle, 0, state.st_size)
    finally:
        os.close(handle)


def _fault(what: str, path: Path, name: str | None) -> ModelError:
    place = str(path) if name is None else f"initializer {name!r}"
    hint = "the data file is truncated or belongs to another model"
    return ModelError(f"external data {path.name!r} {what}", where=place, hint=hint)
