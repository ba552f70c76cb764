"""Prompts, and where two models' answers to them part."""

import pytest

from truebits.errors import UsageError
from truebits.evaluation.dialogue import PROMPTS, Reply, compare_replies, read_prompts, read_text


def reply(*tokens):
    return Reply(list(tokens), [float(token) / 10 for token in tokens], " ".join(map(str, tokens)))


@pytest.mark.parametrize(
    ("base", "candidate", "first", "gap"),
    [
        ((1, 2, 3), (1, 2, 3), None, None),
        ((1, 2, 3), (1, 9, 3), 1, 0.2),
        ((5,), (6,), 0, 0.5),
        ((1, 2), (1, 2, 3), None, None),
        ((), (), None, None),
    ],
)
def test_the_first_token_that_differs(base, candidate, first, gap):
    got = compare_replies("why?", reply(*base), reply(*candidate))
    assert (got.first_difference, got.gap, got.prompt) == (first, gap, "why?")
    assert (got.base, got.candidate) == (reply(*base).text, reply(*candidate).text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"\n  \none\r\n\ntwo", ["one", "two"]),
        ("ü?\n".encode(), ["ü?"]),
    ],
)
def test_a_prompt_per_line(tmp_path, content, expected):
    path = tmp_path / "prompts"
    path.write_bytes(content)
    assert read_prompts(path) == expected


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "has no prompt"), (b"\n \n", "has no prompt"), (b"ab\xff", "byte 2 begins no")]
)
def test_a_file_of_no_prompts(tmp_path, content, words):
    path = tmp_path / "prompts\x1b"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_prompts(path)
    assert str(caught.value).isprintable()


def test_every_byte_of_a_text_is_read(tmp_path):
    (tmp_path / "t").write_bytes(b"a\r\nb\x00\xef\xbb\xbf")
    assert read_text(tmp_path / "t") == "a\r\nb\0\ufeff"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")


def test_prompts_where_none_are_given():
    assert all(prompt.strip() and "\n" not in prompt for prompt in PROMPTS)
