"""One named error per broken rule.

Every error a user can cause is a `TruebitsError` with the exit code the command
line ends with. A malformed file raises a `ModelFileError`, which also carries
the rule's `code`, the `path` and the byte `offset` where the rule broke.
Operating-system errors stay `OSError` (exit code 4).
"""

from __future__ import annotations

from pathlib import Path

LONGEST_MESSAGE = 990
"""A line of an error has 1,000 characters at most, its end and what stands before it counted."""


def printable(text: str | bytes) -> str:
    r"""Return `text` with everything a terminal could act on escaped.

    Bytes that are not UTF-8 come out as ``\xNN``, control and other
    unprintable characters as ``\xNN`` or ``\uNNNN``.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def shortened(text: str) -> str:
    """Return a value of a file's metadata `printable`, in 60 characters at most."""
    text = printable(text)
    return text if len(text) <= 60 else text[:57] + "..."


def clipped(message: str) -> str:
    """Return a message on one line of bounded length; what is cut is cut from its middle."""
    message = printable(message)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:700]} ... {message[5 - LONGEST_MESSAGE + 700 :]}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


class TruebitsError(Exception):
    """Base of every error truebits raises on purpose."""

    exit_code = 70


class UsageError(TruebitsError, ValueError):
    """A request that makes no sense: refused before any work."""

    exit_code = 2


class SelectionError(UsageError):
    """A selection of tensors that matches nothing it could be used for."""


class NeedsGGUF(UsageError):
    """A model of another format, given to what works on GGUF only."""


class NotTheSource(UsageError):
    """A checkpoint that a GGUF cannot have been converted from: says what does not match."""


class Refused(TruebitsError):
    """A write that could cost somebody data; names the flag that allows it."""

    exit_code = 5


class MissingExtra(UsageError):
    """A part of truebits that is installed on demand."""

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs an optional part; install it: pip install 'truebits[{extra}]'")


class VerificationFailed(TruebitsError):
    """What was written is not what the plan said."""

    exit_code = 4


class EvaluationFailed(TruebitsError):
    """llama.cpp refuses a model, cannot run it, or did not survive it."""

    exit_code = 8


class Unfinished(TruebitsError):
    """An in-place rewrite that was interrupted: run it again, or undo it."""

    exit_code = 6


class ModelFileError(TruebitsError):
    """A rule of the file format is broken.

    Attributes
    ----------
    code : str
        The rule, stable across releases (``E_BOUNDS``).
    path : Path
        The file.
    offset : int
        Byte offset in the file of what broke the rule.
    """

    exit_code = 3
    code = "E_FILE"

    def __init__(self, path: Path, offset: int, message: str):
        message = clipped(message)
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.message = message

    def __str__(self) -> str:
        return f"{printable(str(self.path))}: {self.code} at byte {self.offset}: {self.message}"

    def __reduce__(self) -> tuple[type[ModelFileError], tuple[Path, int, str]]:
        return type(self), (self.path, self.offset, self.message)


class EmptyFile(ModelFileError):
    code = "E_EMPTY"


class NotGGUF(ModelFileError):
    code = "E_NOT_GGUF"


class NotSafetensors(ModelFileError):
    code = "E_NOT_SAFETENSORS"


class PickleRefused(ModelFileError):
    """A checkpoint that runs code when it is loaded: never loaded here."""

    code = "E_PICKLE"


class BadVersion(ModelFileError):
    code = "E_VERSION"


class BigEndian(ModelFileError):
    code = "E_ENDIAN"


class HeaderTruncated(ModelFileError):
    code = "E_TRUNCATED"


class BadCount(ModelFileError):
    code = "E_COUNT"


class BadStringLength(ModelFileError):
    code = "E_STRLEN"


class BadKey(ModelFileError):
    code = "E_KEY"


class NulInName(ModelFileError):
    code = "E_NUL"


class DuplicateKey(ModelFileError):
    code = "E_DUP_KEY"


class DuplicateTensor(ModelFileError):
    code = "E_DUP_TENSOR"


class BadValueType(ModelFileError):
    code = "E_KV_TYPE"


class NestedArray(ModelFileError):
    code = "E_NESTED_ARRAY"


class BadArrayLength(ModelFileError):
    code = "E_ARRLEN"


class BadAlignment(ModelFileError):
    code = "E_ALIGN"


class TooManyDimensions(ModelFileError):
    code = "E_NDIMS"


class BadDimension(ModelFileError):
    code = "E_DIM"


class SizeOverflow(ModelFileError):
    code = "E_OVERFLOW"


class BadTensorType(ModelFileError):
    code = "E_TYPE"


class BadBlock(ModelFileError):
    code = "E_BLOCK"


class OutOfBounds(ModelFileError):
    code = "E_BOUNDS"


class Overlap(ModelFileError):
    code = "E_OVERLAP"


class MisalignedOffset(ModelFileError):
    code = "E_OFFSET"


class BadName(ModelFileError):
    code = "E_NAME"


class OddLayout(ModelFileError):
    code = "E_LAYOUT"


class UnexplainedBytes(ModelFileError):
    code = "E_UNEXPLAINED"


class BadJson(ModelFileError):
    code = "E_JSON"


class BadText(ModelFileError):
    code = "E_TEXT"


class BadField(ModelFileError):
    code = "E_FIELD"


class BadMetadata(ModelFileError):
    code = "E_METADATA"


class BadRange(ModelFileError):
    code = "E_RANGE"


class SizeMismatch(ModelFileError):
    code = "E_SIZE"


class BadIndex(ModelFileError):
    code = "E_INDEX"


class BadConfig(ModelFileError):
    code = "E_CONFIG"


class BadShardSet(ModelFileError):
    code = "E_SHARD"


class BadManifest(ModelFileError):
    code = "E_MANIFEST"


class LimitExceeded(ModelFileError):
    """The file is larger than a limit of the caller's; raise the limit to read it."""

    code = "E_LIMIT"
