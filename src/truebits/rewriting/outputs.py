"""Where a rewritten model goes: files, or a folder, that have no name until they are whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from truebits.errors import Refused, UsageError, printable
from truebits.files.checkpoint import INDEX_SUFFIX
from truebits.files.model import Model
from truebits.files.shards import shard_names
from truebits.files.sniff import PICKLE_SUFFIXES
from truebits.rewriting import durable

WEIGHTS = (*PICKLE_SUFFIXES, ".safetensors", ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".bin.index.json")
"""What else may hold a checkpoint's values: copied, it would hold the old ones."""

IS_INPUT = "is the input: give another name (truncate and fakequant change it with --in-place)"


class NewFile(NamedTuple):
    """A file being written, that has no name yet.

    Attributes
    ----------
    path : Path
        The name that it gets.
    descriptor : int
    opened : Path
        By which it can be opened until then.
    """

    path: Path
    descriptor: int
    opened: Path


@contextmanager
def new_files(paths: Sequence[Path], force: bool = False) -> Iterator[list[NewFile]]:
    """Give files that get their names only when all of them are complete and on disk.

    Parameters
    ----------
    paths : sequence of Path
    force : bool
        Replace files that are there.

    Raises
    ------
    Refused
        A path exists, be it since a moment ago, and `force` is not given.
    OSError
        From the file system; nothing is left behind.
    """
    for path in paths:
        check_absent(path, force)
    try:
        yield from _new_files(paths, force)
    except OSError as error:
        if error.filename is None and error.errno in durable.NO_ROOM:
            error.filename = str(paths[0])
        raise
    for folder in dict.fromkeys(path.parent for path in paths):
        durable.sync_folder(folder)


def _new_files(paths: Sequence[Path], force: bool) -> Iterator[list[NewFile]]:
    with ExitStack() as stack:
        files = [NewFile(path, *stack.enter_context(durable.unnamed(path.parent))) for path in paths]
        for file in files:
            if file.path.exists() and hasattr(os, "fchmod"):
                os.fchmod(file.descriptor, file.path.stat().st_mode & 0o7777)
        yield files
        for file in files:
            durable.sync(file.descriptor)
        _give_names(files, force)


def _give_names(files: Sequence[NewFile], force: bool) -> None:
    """Name the files of a set; where one cannot be named none of the new names stays."""
    named: list[Path] = []
    try:
        for file in files:
            check_absent(file.path, force)
            durable.give_name(file.descriptor, file.opened, file.path, force)
            named.append(file.path)
    except BaseException as error:
        if not force:
            for path in named:
                path.unlink()
        if isinstance(error, FileExistsError):
            raise Refused(f"{printable(str(file.path))} appeared meanwhile; --force replaces it") from error
        if force and named and isinstance(error, OSError):
            told = f"{error.strerror}; of the set these are new already: {', '.join(path.name for path in named)}"
            raise OSError(error.errno, told, str(file.path)) from error
        raise


def check_absent(path: Path, force: bool) -> None:
    """Refuse a path that is taken; with `force` only one that is no regular file, a folder or a device."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    if path.exists() and not path.is_file():
        raise Refused(f"{printable(str(path))} is not a regular file: it is never replaced")
    if not force and os.path.lexists(path):
        raise Refused(f"{printable(str(path))} exists; --force replaces it")


def outputs(model: Model, out: Path) -> list[Path]:
    """Return the path to write for each file of a model.

    Raises
    ------
    UsageError
        The model is a shard set and `out` is not named like one of as many, or `out` is the input.
    """
    if len(model.parts) == 1:
        other = {".gguf", ".safetensors"} - {f".{model.format}"}
        if out.suffix in other:
            raise UsageError(f"{printable(str(out))}: the model is {model.format}, and stays so")
        paths = [out]
    else:
        paths, count = [out.with_name(name) for name in shard_names(out.name)], len(model.parts)
        if len(paths) != count:
            raise UsageError(f"the model is {count} files: name the output NAME-00001-of-{count:05d}.gguf")
    for part in model.parts:
        for path in paths:
            if path.exists() and os.path.samestat(path.stat(), part.path.stat()):
                raise UsageError(f"{printable(str(path))} {IS_INPUT}")
    return paths


def is_folder(model: Model) -> bool:
    """Tell whether a model is a folder of safetensors files and what belongs to them, and not a file."""
    is_index = model.path.name.endswith(INDEX_SUFFIX)
    return model.format == "safetensors" and (len(model.parts) > 1 or is_index or model.path.is_dir())


def check_output(model: Model, out: Path, force: bool) -> None:
    """Refuse, before any work, an output that could not be written.

    Raises
    ------
    UsageError, Refused, FileNotFoundError
    """
    if not is_folder(model):
        for path in outputs(model, out):
            check_absent(path, force)
        return
    if out.suffix in (".gguf", ".safetensors"):
        raise UsageError(f"the model is a folder: name a new folder, not {printable(str(out))}")
    if out.exists() and out.samefile(model.parts[0].path.parent):
        raise UsageError(f"{printable(str(out))} {IS_INPUT}")
    if os.path.lexists(out):
        raise Refused(f"{printable(str(out))} exists: a folder is never replaced; name another, or remove it")
    check_absent(out, force)


@contextmanager
def new_model(model: Model, out: Path, force: bool = False) -> Iterator[list[NewFile]]:
    """Give a file for each of a model's; of a folder's, in a new folder with what else the old one holds.

    Raises
    ------
    UsageError, Refused, OSError
        Nothing is left behind.
    """
    check_output(model, out, force)
    if not is_folder(model):
        with new_files(outputs(model, out), force) as files:
            yield files
        return
    try:
        with durable.unnamed_folder(out) as folder:
            copy_others(model.parts[0].path.parent, folder)
            with new_files([folder / part.path.name for part in model.parts]) as files:
                yield files
    except FileExistsError as error:
        raise Refused(f"{printable(str(out))} appeared meanwhile: a folder is never replaced") from error


def copy_others(source: Path, folder: Path) -> None:
    """Copy what a model's folder holds beside weights: settings, tokenizer, index; also in its subfolders.

    Hidden names stay behind, and links that lead out of the folder (and of the repository's cache): a folder that
    somebody else made must not bring files of this machine along.
    """
    inside = source.resolve()
    _copy_others(source, folder, inside.parents[1] if inside.parent.name == "snapshots" else inside)


def _copy_others(source: Path, folder: Path, inside: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name.endswith(WEIGHTS) or not path.resolve().is_relative_to(inside):
            continue
        if path.is_dir() and not path.is_symlink():
            (folder / path.name).mkdir()
            _copy_others(path, folder / path.name, inside)
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
            with (folder / path.name).open("rb+") as file:
                durable.sync(file.fileno())
    durable.sync_folder(folder)
