"""Encoding images: beside decoding, several of one size together, each content once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count

import numpy as np

from whet.errors import ModelError
from whet.llm.architecture import Array
from whet.llm.images.image_prompt import Encoded
from whet.llm.images.vision import Pixels, Vision
from whet.runtime.model import CompiledModel

CACHE_BYTES = 256 << 20
"""Memory for features of images that no prompt needs at the moment."""

BATCH_TOKENS = 4096
"""Features that are computed together, unless a single image has more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """An image that waits to be encoded."""

    key: bytes
    pixels: Pixels
    found: Future[Encoded]

    @property
    def size(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of its arrays; images of equal ones are encoded together."""
        return tuple(array.shape for array in self.pixels.inputs.values())


class ImageEncoder:
    """Encodes images on a thread of its own; what was encoded once is found again by its content.

    Args:
        vision: the tower.
        model: its graph, compiled.
        cache_bytes: memory for features.
    """

    def __init__(
        self, vision: Vision, model: CompiledModel, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.vision = vision
        self.batches = 0
        self._model = model
        self._room = cache_bytes
        self._numbers = count()
        self._known: OrderedDict[bytes, Encoded] = OrderedDict()
        self._coming: dict[bytes, Future[Encoded]] = {}
        self._waiting: deque[_Wanted] = deque()
        self._changed = threading.Condition()
        thread = threading.Thread(target=self._work, name="whet-images", daemon=True)
        thread.start()

    def submit(self, images: Sequence[Array]) -> list[Future[Encoded]]:
        """Begin to encode images of bytes [height, width, 3].

        Raises:
            InputError: an image has sides that differ too much.
        """
        keys = [_content(image) for image in images]
        with self._changed:
            known = {key: self._found(key) for key in keys}
        ready = {
            key: self.vision.prepare(image)
            for key, image in zip(keys, images, strict=True)
            if known[key] is None
        }
        with self._changed:
            for key, pixels in ready.items():
                if self._found(key) is None:
                    self._coming[key] = Future()
                    self._waiting.append(_Wanted(key, pixels, self._coming[key]))
            found = [self._found(key) or known[key] for key in keys]
            self._changed.notify()
        return [future for future in found if future is not None]

    def _found(self, key: bytes) -> Future[Encoded] | None:
        """Return an image that is encoded, or will be."""
        if key in self._coming:
            return self._coming[key]
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        future: Future[Encoded] = Future()
        future.set_result(self._known[key])
        return future

    # -- on the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch = self._batch()
            try:
                self._keep(batch, self._encoded(batch))
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait, not the thread
                self._fail(batch, error)

    def _batch(self) -> list[_Wanted]:
        """Take the images that are encoded next: the oldest, and others of its size."""
        first = self._waiting[0]
        most = max(BATCH_TOKENS // first.pixels.tokens, 1)
        batch = [w for w in self._waiting if w.size == first.size][:most]
        self._waiting = deque(w for w in self._waiting if w not in batch)
        return batch

    def _encoded(self, batch: Sequence[_Wanted]) -> Array:
        names = batch[0].pixels.inputs
        inputs = {name: np.stack([w.pixels.inputs[name] for w in batch]) for name in names}
        self.batches += 1
        found: Array = self._model.run(inputs)["features"]
        if not np.isfinite(found).all():
            raise ModelError("features of an image are no numbers", hint="check the weights")
        return found

    def _keep(self, batch: Sequence[_Wanted], features: Array) -> None:
        for wanted, rows in zip(batch, features, strict=True):
            with self._changed:
                encoded = Encoded(next(self._numbers), rows.copy(), wanted.pixels.grid)
                self._known[wanted.key] = encoded
                del self._coming[wanted.key]
                while len(self._known) > 1 and self._size() > self._room:
                    self._known.popitem(last=False)
            wanted.found.set_result(encoded)

    def _fail(self, batch: Sequence[_Wanted], error: Exception) -> None:
        with self._changed:
            for wanted in batch:
                self._coming.pop(wanted.key, None)
        for wanted in batch:
            if not wanted.found.done():
                wanted.found.set_exception(error)

    def _size(self) -> int:
        return sum(encoded.features.nbytes for encoded in self._known.values())


def _content(image: Array) -> bytes:
    state = hashlib.sha256(repr(image.shape).encode())
    state.update(np.ascontiguousarray(image).data)
    return state.digest()
