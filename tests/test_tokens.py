"""What the rows of an embedding stand for: in a line, whatever the vocabulary holds."""

from __future__ import annotations

import pytest

from truebits.precision.tokens import named

UNUSED = [f"[unused{number}]" for number in range(994)]
PIECES = [f"##{chr(number)}" for number in range(0x4E00, 0x4E00 + 341)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], ""),
        (["[PAD]"], "`[PAD]`"),
        (["a", "b", "c", "d", "e"], "`a`, `b`, `c`, 2 more"),
        (UNUSED, "`[unused0]` to `[unused993]`"),
        (["[PAD]", *UNUSED, *PIECES], "`[PAD]`, `[unused0]` to `[unused993]`, 341 `##` pieces"),
        ([f"<0x{number:02X}>" for number in range(256)], "`<0x00>` to `<0xFF>`"),
        (["a1", "a2"], "`a1`, `a2`"),
        (["a1", "a2", "a3", "b3", "a5"], "`a1` to `a3`, `b3`, `a5`"),
        ([f"{letter}{i}" for letter in "abcde" for i in range(4)], "`a0` to `a3`, `b0` to `b3`, `c0` to `c3`, 8 more"),
        (["##x", "##"], "`##x`, `##`"),
        (["\x1b[31m", "\u202e", "\udc80"], r"`\x1b[31m`, `\u202e`, `\x80`"),
        (["\u0dcf", "\uac00"], r"`\u0dcf`, `\uac00`"),
        (["x" * 70_000], f"`{'x' * 23}…`"),
        (["9" * 70_000] * 3, f"`{'9' * 23}…`, " * 2 + f"`{'9' * 23}…`"),
        (["", ""], "``, ``"),
    ],
)
def test_tokens_in_a_line(tokens, expected):
    assert named(tokens) == expected


def test_a_line_is_short_whatever_there_is():
    hostile = [f"{letter}{number}{'x' * 500}" for letter in map(chr, range(33, 3000)) for number in range(5)]
    assert len(named(hostile)) < 400
