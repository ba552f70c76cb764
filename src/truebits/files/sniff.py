"""What kind of model file is it? If none, what it looks like."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote
from typing import NoReturn

from truebits import errors

HEAD_BYTES = 256
"""Enough to tell: a zip archive's first name stands here too."""

SAFETENSORS = re.compile(rb"(?s)....\0\0\0\0\{")
INDEX = re.compile(rb"\s*\{")

PICKLE = re.compile(rb"(?s)\x80[\x02-\x05]|PK\x03\x04.{26}[^\0]*?data\.pkl")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

LOOKALIKES = (
    (rb"version https://git-lfs", "a Git-LFS pointer: run `git lfs pull` to get the file itself"),
    (rb"\s*<(!doctype|html|\?xml|head|body|Error)", "an HTML or XML page: the download saved an error page"),
    (
        rb'(?s)\s*\{.{0,120}"mediaType":\s*"application/vnd\.(docker|oci)',
        "an Ollama or OCI manifest, which names the model's blob: open it as ollama:NAME (`truebits show` lists them)",
    ),
    (rb"\s*[\[{]", "JSON text: the download saved an error answer"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
    (rb"PK\x03\x04", "a zip archive (TorchScript, NumPy's npz, Keras, a llamafile?): save the weights as safetensors"),
    (rb"\x7fELF|MZ", "an executable (a llamafile?)"),
    (
        rb"lmgg|fmgg|tjgg|algg|ggml|ggmf|ggjt|ggla",
        "an old GGML file, as whisper.cpp's models still are: take the checkpoint that it was made from, "
        "or convert it to GGUF with llama.cpp's tools",
    ),
    (rb"\x89HDF", "an HDF5 file, as Keras writes: save the weights as safetensors"),
    (rb"\x93NUMPY", "one NumPy array: save it as safetensors (safetensors.numpy.save_file)"),
    (rb"(?s)....TFL3", "a TensorFlow Lite model, which is not read: take the checkpoint that it was exported from"),
    (rb"\xef\xbb\xbf", "text with a UTF-8 byte-order mark"),
    (rb"\x00+\Z", "all zeros: an unfinished download"),
)

EXPORTED = "take the checkpoint that it was exported from, as safetensors"

SORTS: dict[str, tuple[type[errors.ModelFileError], str, str, int]] = {
    ".gguf": (errors.NotGGUF, "GGUF", "47 47 55 46 (GGUF)", 24),
    ".safetensors": (errors.NotSafetensors, "safetensors", "a length and {", 10),
}
"""What a name promises: the error, the format, how it starts, its smallest file."""

CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; save_file({name: value.contiguous().clone() "
    "for name, value in torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])"
)


def format_of(head: bytes, path: Path) -> str:
    """Tell what a file is by how it starts, and say of what is no model file what it looks like.

    Parameters
    ----------
    head : bytes
        The file's first `HEAD_BYTES`, or all of them.
    path : Path
        A name helps where the start does not tell: ``.safetensors``, ``.json``, a checkpoint's.

    Returns
    -------
    {"gguf", "safetensors", "index"}

    Raises
    ------
    EmptyFile, BigEndian, NotGGUF, NotSafetensors, PickleRefused
    """
    if head[:4] == b"GGUF":
        return "gguf"
    if SAFETENSORS.match(head):
        return "safetensors"
    suffix = path.suffix.lower()
    if suffix == ".json" and INDEX.match(head):
        return "index"
    if suffix == ".safetensors" and (0 < len(head) < 9 or head[8:9] == b"{"):
        return "safetensors"  # its own reader says what is wrong with the length
    refuse(head, path)


def refuse(head: bytes, path: Path) -> NoReturn:
    """Say what a file looks like that does not start as a model file does."""
    suffix = path.suffix.lower()
    if PICKLE.match(head) or (suffix in PICKLE_SUFFIXES and head.startswith(b"PK\x03\x04")):
        raise pickle_refused(path)
    error, named, starts, least = SORTS.get(suffix, SORTS[".gguf"])
    if not head:
        raise errors.EmptyFile(path, 0, f"the file is empty: 0 bytes, a {named} has at least {least}")
    if head[:4] == b"FUGG":
        raise errors.BigEndian(path, 0, "starts with FUGG: a big-endian file")
    if suffix == ".onnx" and head[:1] == b"\x08":
        raise error(path, 0, "not a GGUF file; it looks like an ONNX model, which is not read: " + EXPORTED)
    for pattern, looks_like in LOOKALIKES:
        if re.match(pattern, head, re.IGNORECASE):
            raise error(path, 0, f"not a {named} file; it looks like {looks_like}")
    raise error(path, 0, f"not a {named} file: it starts with {head[:4].hex(' ')}, not {starts}")


def pickle_refused(path: Path) -> errors.PickleRefused:
    """Say why a pickle checkpoint is not loaded, and how to convert it."""
    target = path.with_suffix(".safetensors").name
    command = f'python -c "{CONVERT}" {quote(path.name)} {quote(target)}'
    message = f"a pickle checkpoint, which may run code when it is loaded: never loaded here. Convert it: {command}"
    return errors.PickleRefused(path, 0, errors.printable(message))
