"""The file that a loaded model reads its weights from while it runs."""

from __future__ import annotations

import mmap

import msgspec

from whet.errors import ArtifactError
from whet.mapped import MappedFile
from whet.program.container import Container, digest, map_section
from whet.program.manifest import SectionRow


class Section(msgspec.Struct, frozen=True):
    """A mapped section: its place, its bytes, and the mapping if it has any bytes."""

    row: SectionRow
    view: memoryview
    mapped: MappedFile | None


class SourceFile(msgspec.Struct, frozen=True):
    """The file that a loaded model reads while it runs.

    Attributes:
        path: the file.
        sections: what is mapped of it.
        weights: the mapping that every run reads, ``None`` if there are no weights.
    """

    path: str
    sections: tuple[Section, ...]
    weights: MappedFile | None

    def check(self) -> None:
        """Refuse to go on when the file is not what was loaded.

        One that was merely touched, or written with the same bytes, is looked at once more.

        Raises:
            ArtifactError: it was cut or changed; what was computed from it may be wrong.
        """
        for section in self.sections:
            mapped = section.mapped
            if mapped is None or not mapped.changed():
                continue
            if mapped.lost or digest(section.view) != section.row.digest or mapped.lost:
                raise ArtifactError(
                    "the file was changed while it was in use",
                    where=self.path,
                    hint="load it again; replace files by renaming, as save does",
                )
            mapped.accept()


def map_unread(container: Container, row: SectionRow) -> Section:
    """Return a section's checked bytes; they leave memory until somebody reads them.

    What a run never touches, such as most rows of an embedding, then takes no memory.
    """
    mapped, view = map_section(container, row)
    if mapped is not None:
        mapped.mapping.madvise(mmap.MADV_DONTNEED)
    return Section(row, view, mapped)
