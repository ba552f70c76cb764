"""What shrinking saves, and why it is the same: for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from textwrap import fill

from truebits.errors import printable, shortened
from truebits.files.tensor import group_of
from truebits.precision.coverage import count
from truebits.report.table import Bytes, Table, terminal_width
from truebits.rewriting.narrowest import Choice, Stray
from truebits.rewriting.shrink import Shrunk

MOST_STRAYS = 12

OTHERS = "others"
"""The row of all that stay, unless tensors are asked for one by one."""


def types(found: Shrunk, by_tensor: bool) -> Table:
    """What becomes of the tensors, by group: the most saved first, and last what stays."""
    members: dict[tuple[str, str, str, str], list[Choice]] = {}
    for one in found.tensors:
        name = one.tensor.name if by_tensor else group_of(one.tensor.name) if one.changes else OTHERS
        members.setdefault((name, one.tensor.type, one.to, _why(one)), []).append(one)
    table = Table((*(("tensor",) if by_tensor else ("tensors", "n")), "from", "to", "saved", "proof"))
    for (name, was, to, why), of in sorted(members.items(), key=lambda row: -_saved(row[1])):
        many = () if by_tensor else (len(of),)
        saved = Bytes(_saved(of)) if was != to else None
        table.rows.append((printable(name), *many, was, to if was != to else "stays", saved, why or _proof(of)))
    return table


def _saved(choices: list[Choice]) -> int:
    return sum(one.tensor.nbytes - one.nbytes for one in choices)


def _why(choice: Choice) -> str:
    """Say why a tensor stays; nothing of one that does not."""
    if choice.changes:
        return ""
    return choice.why or ("no type tried holds it" if choice.wanted else "as llama.cpp wants it")


def _proof(choices: list[Choice]) -> str:
    """Say what proves that tensors keep their values."""
    finer = sum(one.finer for one in choices)
    if finer:
        return f"{finer:,} values finer"
    scales = [one.scaled.scales.size for one in choices if one.scaled]
    if scales:
        return f"{count(sum(scales), 'scale')}, every bit"
    blocks = [one.blocks for one in choices if one.blocks]
    if blocks:
        return f"{sum(blocks):,} blocks, every bit"
    return f"{sum(one.tensor.values for one in choices):,} values, exact"


def story(found: Shrunk, table: str, is_dry: bool) -> Iterator[str]:
    """Yield the verdict, the table, what nearly became narrower, and what was written."""
    verdict = found.summary
    yield fill(f"{verdict[0].upper()}{verdict[1:]}.", terminal_width())
    if found.tensors:
        yield table
    strays = [(one, one.stray) for one in found.tensors if one.stray]
    if strays:
        lines = [almost(one, stray) for one, stray in strays[:MOST_STRAYS]]
        more = [f"and {len(strays) - MOST_STRAYS:,} more such"] if len(strays) > MOST_STRAYS else []
        yield "\n".join([*lines, *more])
    for why, number in Counter(one.why for one in found.tensors if one.why and one.changes).items():
        yield fill(f"{count(number, 'tensor')} would be narrower still: {why}.", terminal_width())
    if found.finer:
        finer = f"{found.finer:,} values are finer than in the file, where they had been rounded"
        yield fill(f"{finer} once more; rounded so again, all are the same.", terminal_width())
    if found.output is not None:
        where = printable(found.output)
        yield f"Written to {where} and read back: the hash of all values is as it was,\n{found.fingerprint}."
    elif not found.changed:
        yield "Nothing was written."
    elif is_dry:
        yield "Nothing was written: this is the plan."


def almost(choice: Choice, stray: Stray) -> str:
    """Say what keeps a tensor from a narrower type."""
    off = count(stray.exceptions, stray.unit.removesuffix("s"))
    name = shortened(choice.tensor.name)
    return f"{name} is {stray.to} but for {off} of {stray.of:,}: value {stray.at:,} is {stray.value:.9g}"
