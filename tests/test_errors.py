"""What errors say, and that nothing in it acts on a terminal."""

import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_bytes import (
    HEADER_BYTES,
    tensor,
)
from gguf_bytes import gguf as gguf_bytes
from truebits import errors
from truebits.errors import LONGEST_MESSAGE, ModelFileError, clipped, printable, shortened

FIRST_RECORD = HEADER_BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blk.0.attn_q.weight", "blk.0.attn_q.weight"),
        ("Gewichte für 模型", "Gewichte für 模型"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\rd\0", r"a\nb\tc\rd\x00"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("\u2028\u2029\ufeff\u200b", r"\u2028\u2029\ufeff\u200b"),
        ("\U000e0041", r"\U000e0041"),
        (b"\xff\x1b\xc3\xbc", r"\xff\x1b" + "ü"),
        (b"\xe2\x80\xae", r"\u202e"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=()), max_size=30) | st.binary(max_size=30))
def test_nothing_a_terminal_acts_on_gets_through_printable(text):
    got = printable(text)
    assert got.isprintable()
    assert not [c for c in got if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}]
    got.encode("utf-8")


def test_error_text_is_printable(refused):
    name = b"\x1b]0;owned\x07\xe2\x80\xae"
    got = refused(gguf_bytes([], [tensor(name, (9,))], bytes(32)), errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD)
    assert str(got).isprintable()
    assert r"\x1b]0;owned\x07\u202e" in got.message


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (60, 60), (61, 60), (10_000, 60)])
def test_shortened(length, expected):
    assert len(shortened("x" * length)) == expected
    assert shortened("\x1b" * 99).isprintable()


@pytest.mark.parametrize("length", [LONGEST_MESSAGE, LONGEST_MESSAGE + 1, 10**6])
def test_a_long_message_loses_its_middle(length):
    got = clipped("a" + "x" * (length - 2) + "z")
    assert (len(got), got[0], got[-1]) == (LONGEST_MESSAGE, "a", "z")
    assert (" ... " in got) == (length > LONGEST_MESSAGE)


def classes():
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TruebitsError)]


def test_every_rule_has_a_code_of_its_own_and_every_error_an_exit_code():
    codes = [one.code for one in classes() if issubclass(one, ModelFileError)]
    assert len(codes) == len(set(codes)) > 30
    assert all(code.startswith("E_") for code in codes)
    assert {one.exit_code for one in classes()} == {2, 3, 4, 5, 6, 8, 70}


@pytest.mark.parametrize("kind", [one for one in classes() if issubclass(one, ModelFileError)])
def test_an_error_comes_back_from_another_process(kind):
    error = kind(Path("a\x1b.gguf"), 7, "odd\n")
    got = pickle.loads(pickle.dumps(error))
    assert (type(got), got.path, got.offset, got.message) == (kind, error.path, 7, r"odd\n")
    assert str(got) == rf"a\x1b.gguf: {kind.code} at byte 7: odd\n"


def test_a_missing_part_names_what_to_install():
    assert "pip install 'truebits[plot]'" in str(errors.MissingExtra("a picture", "plot"))
