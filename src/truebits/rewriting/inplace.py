"""In place: refuse what could cost somebody data, lock, mark, write, verify, unmark.

Every value is at each moment its old or its new one. A marker beside the file says that a rewrite began;
it goes only when all is written and verified. Found later, it means: run the same again, or undo.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from truebits.errors import Refused, Unfinished, VerificationFailed
from truebits.files.mapping import FileChanged
from truebits.files.model import Model
from truebits.files.part import Part
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.rewriting import durable
from truebits.rewriting.beside import marker_path
from truebits.rewriting.copy import Blocks, Change, check_layout, digest, others, pieces, single_values, words_of
from truebits.rewriting.durable import sync, write_all
from truebits.rewriting.locks import locked
from truebits.rewriting.marker import clear_marker, find_marker, is_marked, set_marker
from truebits.rewriting.undolog import UndoLog

ALLOWANCES = ("symlink", "hardlink", "cache", "open", "layout")
"""What `--allow` can permit."""

Verify = Callable[[int, list[Path]], None]
"""Gets the number of values changed and the written files; raises `VerificationFailed`."""

STORE = re.compile(r"/models--[^/]+/(snapshots|blobs)/|/blobs/sha256[-:]|/(docker|containerd)/.*/sha256/")


class InPlace:
    """The files of a model, checked and locked for a rewrite.

    Parameters
    ----------
    model : Model
    tensors : list of Tensor
        Those to change.
    operation : dict[str, Any]
        What is done, as the marker and the undo log record it.
    undo_file : Path or None
    allow : set of str
        Of `ALLOWANCES`.
    is_repeatable : bool
        Changing what is changed already changes nothing: an interrupted rewrite can be run again.
    blocks : callable
    """

    def __init__(
        self,
        model: Model,
        tensors: list[Tensor],
        operation: dict[str, Any],
        undo_file: Path | None,
        allow: set[str],
        is_repeatable: bool = True,
        blocks: Blocks = single_values,
    ):
        self.model = model
        self.tensors = tensors
        self.operation = operation
        self.undo_file = undo_file
        self.allow = allow
        self.is_repeatable = is_repeatable
        self.blocks = blocks

    def write(self, change: Change, verify: Verify, progress: Callable[[int], None]) -> int:
        """Change the words of the tensors; return how many changed.

        Raises
        ------
        Refused, ModelFileError
            Before anything is written.
        Unfinished
            Interrupted: the marker stays.
        VerificationFailed
        """
        used = sorted({tensor.part for tensor in self.tensors})
        parts = {number: self.model.parts[number] for number in used}
        with ExitStack() as stack:
            for part in parts.values():
                check_allowed(part, self.allow)
            descriptors = {n: stack.enter_context(locked(part, self.allow)) for n, part in parts.items()}
            record = describe(parts, descriptors, self.operation)
            begun = [marker for part in parts.values() if (marker := find_marker(part.path, record))]
            if begun:
                self._check_repeatable()
                record = begun[0]
                self._check_same_undo(record)
            elif self.undo_file:
                record["undo"] = self._before(parts, descriptors)
            log = stack.enter_context(UndoLog.open(self.undo_file, record, bool(begun))) if self.undo_file else None
            rest = {n: self._digest_of_others(n, descriptor) for n, descriptor in descriptors.items()}
            try:
                for part in parts.values():
                    set_marker(part.path, record)
                changed = sum(self._write_part(n, descriptors[n], change, log, progress) for n in parts)
                for n, descriptor in descriptors.items():
                    sync(descriptor)
                    if self._digest_of_others(n, descriptor) != rest[n]:
                        raise VerificationFailed("bytes outside the selected tensors have changed")
                verify(changed, [part.path for part in self.model.parts])
                if log is not None:
                    log.finish()
            except VerificationFailed as error:
                raise VerificationFailed(f"{self.model.path}: {error}{self._way_back()}") from error
            except BaseException as error:
                if not is_marked(parts.values()):
                    if log is not None:
                        log.discard()
                    raise
                raise Unfinished(
                    f"{self.model.path}: the rewrite in place was left unfinished "
                    f"({type(error).__name__}: {error}){self._way_on()}{self._way_back()}"
                ) from error
            for part in parts.values():
                clear_marker(part.path)
        return changed

    def _before(self, parts: dict[int, Part], descriptors: dict[int, int]) -> dict[str, Any]:
        """Say what the files are now, for `undo` to prove that they are so again.

        The random number is in the undo file and in the markers: two models may have the same header.
        """
        assert self.undo_file is not None
        path = self.undo_file.absolute()
        if any(path.parent.resolve() / path.name == marker_path(part.path) for part in parts.values()):
            raise Refused(f"{self.undo_file} is the name of the marker of an unfinished rewrite: take another")
        before = {str(n): digest(descriptors[n], [(0, part.identity.size)]) for n, part in parts.items()}
        return {"id": os.urandom(8).hex(), "before": before}

    def _digest_of_others(self, number: int, descriptor: int) -> str:
        size = self.model.parts[number].identity.size
        return digest(descriptor, others(self._of(number), size))

    def _check_repeatable(self) -> None:
        """Refuse to round a second time what a first attempt may have rounded: its scales would be others."""
        if not self.is_repeatable:
            raise Refused(
                f"{self.model.path}: a rewrite in place was left unfinished{self._way_back()}, then run it again"
            )

    def _way_on(self) -> str:
        return "; run the same again to finish it" if self.is_repeatable else ""

    def _way_back(self) -> str:
        if self.undo_file is None:
            return ""
        return f"; to take it back: truebits undo {self.model.path} --undo-file {self.undo_file}"

    def _check_same_undo(self, begun: dict[str, Any]) -> None:
        """Refuse to finish with an undo file that would hold less than what the whole rewrite overwrites."""
        if begun["undo"] and not self.undo_file:
            raise Refused(f"{self.model.path}: the rewrite began with an undo file; give the same --undo-file again")
        if self.undo_file and not begun["undo"]:
            raise Refused(f"{self.model.path}: the rewrite began without --undo-file; finish it without one")

    def _of(self, number: int) -> list[Tensor]:
        return [tensor for tensor in self.tensors if tensor.part == number]

    def _write_part(
        self, number: int, descriptor: int, change: Change, log: UndoLog | None, progress: Callable[[int], None]
    ) -> int:
        changed = 0
        for piece in pieces(self._of(number), self.blocks):
            old = os.pread(descriptor, piece.stop - piece.start, piece.start)
            if len(old) != piece.stop - piece.start:
                raise FileChanged(errno.ESTALE, "shrank while it was rewritten", str(self.model.parts[number].path))
            new = bytearray(old)
            changed_here = change(piece, words_of(piece.tensor, new))
            if changed_here:
                if log is not None:
                    log.append(number, piece.start, old, new)
                write_all(descriptor, new, piece.start)
                if os.pread(descriptor, len(new), piece.start) != new:
                    raise VerificationFailed(f"bytes {piece.start} to {piece.stop} are not what was written")
            changed += changed_here
            progress(piece.stop - piece.start)
        return changed


def check_parts(model: Model, tensors: list[Tensor], allow: set[str]) -> None:
    """Refuse, before any work, what `check_allowed` refuses of the files that hold the tensors."""
    for number in sorted({tensor.part for tensor in tensors}):
        check_allowed(model.parts[number], allow)


def check_allowed(part: Part, allow: set[str]) -> None:
    """Refuse a file that may be more than it seems: each refusal names the flag that overrides it."""
    path = part.path
    if durable.fcntl is None:
        raise Refused(f"{path}: in place works on Linux and macOS, where files can be locked; write a new file")
    if path.is_symlink() and "symlink" not in allow:
        raise Refused(f"{path} is a symbolic link to {path.resolve()}; --allow symlink changes what it points to")
    links = path.stat().st_nlink
    if links > 1 and "hardlink" not in allow:
        raise Refused(f"{path} has {links} names (hard links): all would change; --allow hardlink does it")
    if STORE.search(str(path.resolve())) and "cache" not in allow:
        raise Refused(f"{path} belongs to a model cache that checks its files; --allow cache changes it")
    for tensor in part.header.tensors:
        if tensor.type in FLOAT_BYTES and tensor.offset % FLOAT_BYTES[tensor.type]:
            raise Refused(
                f"{path}: tensor {tensor.label} is not aligned to its {FLOAT_BYTES[tensor.type]}-byte values: "
                "in place a crash could leave half a value; write a new file"
            )
    check_layout(part, allow)


def describe(
    parts: dict[int, Part], descriptors: dict[int, int], operation: dict[str, Any], undo: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Say which files an operation is about: by size and a digest of the header, which never change."""
    files = [
        {
            "part": number,
            "size": part.identity.size,
            "header": hashlib.sha256(os.pread(descriptors[number], part.header.data_start, 0)).hexdigest(),
        }
        for number, part in parts.items()
    ]
    return {"operation": operation, "files": files, "undo": undo}
