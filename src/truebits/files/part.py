"""One file of a model, its header read: what it says, and what is odd about it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truebits import errors
from truebits.files import gguf
from truebits.files.garbage import uncollected
from truebits.files.gguf import Limits
from truebits.files.header import STRING, U64, Header
from truebits.files.mapping import Identity, MappedFile, map_file
from truebits.files.sniff import HEAD_BYTES, format_of
from truebits.files.tensor import Oddity

if TYPE_CHECKING:
    from truebits.files.safetensors import SafetensorsHeader


@dataclass(frozen=True)
class Part:
    """One file of a model."""

    header: Header | SafetensorsHeader
    identity: Identity
    findings: tuple[Oddity, ...] = field(repr=False)

    @property
    def path(self) -> Path:
        return self.header.path

    def map(self) -> MappedFile:
        """Map the file; raises `FileChanged` if it is no longer the one whose header was read."""
        return map_file(self.path, self.identity)

    def at(self, path: Path) -> Part:
        """Return the part as it stands at `path`, now: a copy with the same header."""
        header = replace(self.header, path=path)
        return replace(self, header=header, identity=Identity.of(path.stat()))

    def with_finding(self, finding: Oddity | None) -> Part:
        """Return the part with one more oddity, if there is one."""
        return self if finding is None else replace(self, findings=(*self.findings, finding))

    def check_layout(self) -> None:
        """Raise what stops a writer: a layout that does not add up, or types it does not know."""
        for finding in self.findings:
            if finding.stops_writing:
                raise finding.error(self.path, finding.offset, finding.message)

    def value(self, key: str) -> int | float | bool | str | None:
        """Decode one metadata value; None if absent or an array."""
        with self.map() as file:
            return self.header.value(file.data, key)

    def elements(self, key: str) -> list[Any]:
        """Decode an array of the metadata; a scalar or string is an array of one, an absent key an empty one."""
        with self.map() as file:
            return list(self.header.elements(file.data, key))

    def raw_value(self, data: mmap.mmap | bytes, key: str) -> tuple[int, bytes]:
        """Return GGUF's type and bytes of one metadata value: what two models' values are compared by."""
        if isinstance(self.header, Header):
            return self.header.keys[key][0], gguf.value_bytes(data, self.header, key)
        text = str(self.header.value(data, key)).encode()
        return STRING, U64.pack(len(text)) + text

    def key_offset(self, key: str) -> int:
        """Return where the value of a metadata key stands in the file; 0 if the key is absent."""
        return self.header.keys[key][1] if key in self.header.keys else 0


def read_part(path: Path, number: int, limits: Limits, format: str) -> Part:
    """Read the header of one file of a model; all its files are of one format."""
    with map_file(path) as file:
        found = format_of(file.data[:HEAD_BYTES], path)
        if found != format:
            raise errors.BadShardSet(path, 0, f"a file of format {found} among {format} files")
        with uncollected():
            header = _read_header(file, number, limits, format)
            return Part(header, file.identity, tuple(header.findings(file.data)))


def _read_header(file: MappedFile, number: int, limits: Limits, format: str) -> Header | SafetensorsHeader:
    """Read a header; as much of a remote file as it turns out to take."""
    read = _reader(format)
    while file.known < file.identity.size:
        known = min(file.known - 8, limits.max_header_bytes)
        try:
            return read(file.data, file.path, number, limits._replace(max_header_bytes=known))
        except errors.LimitExceeded:
            if known == limits.max_header_bytes:
                raise
            file.grow()
    return read(file.data, file.path, number, limits)


def _reader(format: str) -> Callable[[mmap.mmap | bytes, Path, int, Limits], Header | SafetensorsHeader]:
    """Return what reads the headers of a format; that of the other one is not imported."""
    if format == "gguf":
        return gguf.read_header
    from truebits.files import safetensors

    return safetensors.read_header
