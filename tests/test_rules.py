"""Rules: how they are read, which of them wins, and what they refuse to say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from models import words_for, write
from truebits.errors import SelectionError, UsageError
from truebits.files.model import open_model
from truebits.numbers.spelling import target
from truebits.rewriting.rules import LARGEST_FILE, Rule, assign, read_rules

EVIL = "\x1b[31m\u202ered"

TENSORS = {
    "token_embd.weight": ("Q8_0", np.zeros(34, np.uint8)),
    "blk.0.attn_norm.weight": ("F32", words_for("F32", 5)),
    "blk.0.ffn_up.weight": ("BF16", words_for("BF16", 6)),
    "blk.1.attn_norm.weight": ("F16", words_for("F16", 7)),
    "blk.1.ffn_up.weight": ("F64", words_for("F64", 8)),
    "positions": ("I32", np.arange(9, dtype=np.uint32)),
    f"{EVIL}.weight": ("F32", words_for("F32", 3)),
}
FLOATS = [name for name, (type, _) in TENSORS.items() if type not in ("Q8_0", "I32")]
NORMS, UPS = ([name for name in FLOATS if word in name] for word in ("norm", "ffn"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(write(tmp_path_factory.mktemp("rules") / "model.gguf", TENSORS))


def assigned(model, to=None, rules=(), select=None, exclude=None):
    return {tensor.name: format.name for tensor, format in assign(model, to, rules, select, exclude).pairs}


def test_block_types_of_ggml_leave_norms_unless_a_rule_names_them(tmp_path):
    """As llama.cpp does; formats with shared scales that are not ggml's have no such habit."""
    matrix, norm = (("F32", np.ones(shape, np.float32)) for shape in ((4, 32), 32))
    model = open_model(write(tmp_path / "model.gguf", {"a.norm": norm, "a.up": matrix, "b.norm": norm}))
    assert assigned(model, "q8_0") == {"a.up": "q8_0"}
    assert assigned(model, "q8_0", ["a.norm=q8_0"]) == dict.fromkeys(["a.norm", "a.up"], "q8_0")
    assert list(assigned(model, "int8")) == ["a.norm", "a.up", "b.norm"]
    assert [tensor.name for tensor in assign(model, "q8_0", (), None, None).left] == ["a.norm", "b.norm"]
    with pytest.raises(SelectionError, match="and 1 other have one dimension, which q8_0 leaves"):
        assigned(model, "q8_0", select="norm")


# --- reading one


@pytest.mark.parametrize(
    ("text", "regex", "format"),
    [
        ("norm=bf16", "norm", "bf16"),
        ("  norm \t=  BF16 ", "norm", "bf16"),
        ("norm=KEEP", "norm", "keep"),
        ("a=b=fp16", "a=b", "fp16"),
        ("(?=norm)=keep", "(?=norm)", "keep"),
        ("=x==int4:row:affine", "=x=", "int4:row:affine"),
        (r"^blk\.(0|1)\.=Int8:Block64", r"^blk\.(0|1)\.", "int8:block64"),
        (".=f16", ".", "f16"),
        ("ü=e5m7", "ü", "e5m7"),
    ],
)
def test_the_last_equals_sign_counts(text, regex, format):
    assert Rule.parse(text) == Rule(regex, format)


@pytest.mark.parametrize("text", ["", " ", "norm", "=", "norm=", "=bf16", " = bf16", "norm= ", "bf16"])
def test_what_is_no_rule(text):
    with pytest.raises(UsageError, match="a rule is REGEX=FORMAT or REGEX=keep, not " + re.escape(repr(text))):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("norm=bf17", "no format is called 'bf17'; did you mean bf16"),
        ("norm=kept", "no format is called 'kept'"),
        ("norm=int4:rows", "int4 has no option 'rows'"),
        ("norm=bf16:row", "bf16 has no option 'row'"),
        ("(=bf16", "not a regular expression: '('"),
        ("*=keep", "not a regular expression"),
    ],
)
def test_a_rule_with_a_wrong_part_says_which(text, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        Rule.parse(text)
    assert caught.value.exit_code == 2


def test_what_is_no_rule_is_printed_escaped():
    with pytest.raises(UsageError) as caught:
        Rule.parse(EVIL)
    assert str(caught.value).isprintable()
    assert r"x1b[31m" in str(caught.value)


# --- reading a file of them

FILE = """\
# the norms stay
norm = keep

   # indented, and = in a comment
ffn=int4:block64 \r
\t
a=b=fp16"""
RULES = [Rule("norm", "keep"), Rule("ffn", "int4:block64"), Rule("a=b", "fp16")]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("as_text", [str, lambda path: path])
def test_file_of_rules(tmp_path, end, as_text):
    path = tmp_path / "rules.txt"
    path.write_bytes((FILE + end).replace("\n", end or "\n").encode())
    assert read_rules(as_text(path)) == RULES


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_file_without_a_rule(tmp_path, text):
    path = tmp_path / "rules.txt"
    path.write_text(text)
    assert read_rules(path) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("norm bf16", "a rule is REGEX=FORMAT or REGEX=keep, not 'norm bf16'"),
        ("norm=bf17", "no format is called 'bf17'"),
        ("norm=int8:bits", "int8 has no option 'bits'"),
        ("[=bf16", "not a regular expression"),
        ("norm=bf16 # not a comment", "no format is called"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line, said):
    path = tmp_path / "rules.txt"
    path.write_text(f"# one\n\nnorm=keep\n{line}\nffn=nothing either\n")
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        read_rules(path)
    assert str(caught.value).startswith(f"{path}, line 4: ")
    assert caught.value.exit_code == 2


def test_bytes_that_are_no_text_are_a_wrong_line(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_bytes(b"norm=keep\n\xff\xfe\x00\x1b\n")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_rules(path)
    assert r"\xff\xfe\x00\x1b" in str(caught.value).replace("\\\\", "\\")
    assert str(caught.value).isprintable()


def test_a_name_that_is_not_utf8_can_be_asked_for(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_bytes(b"\xff.up=bf16\n")
    (rule,) = read_rules(path)
    assert re.search(rule.regex, b"blk.\xff.up".decode("utf-8", "surrogateescape"))


def test_a_file_that_is_too_large_is_none(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_bytes(b"#" * LARGEST_FILE)
    assert read_rules(path) == []
    path.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(UsageError, match="not a file of rules"):
        read_rules(path)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        read_rules(tmp_path / name)


# --- which one wins


def test_only_floating_point_tensors_have_a_format_by_default(model):
    assert assigned(model, "bf16") == dict.fromkeys(FLOATS, "bf16")


def test_without_a_default_only_rules_count(model):
    assert assigned(model, rules=["norm=bf16"]) == dict.fromkeys(NORMS, "bf16")


def test_the_first_rule_that_matches_wins(model):
    got = assigned(model, "fp16", ["blk.0.attn=bf16", "norm=keep", "blk.1.ffn=int8", "blk=int4"])
    assert got == {
        "blk.0.attn_norm.weight": "bf16",
        "blk.0.ffn_up.weight": "int4:block32",
        "blk.1.ffn_up.weight": "int8:block32",
        f"{EVIL}.weight": "fp16",
    }


def test_tensors_come_in_the_order_of_the_file(model):
    assert list(assigned(model, "fp16", ["ffn=bf16", "norm=int8"])) == FLOATS


def test_a_rule_wins_over_the_default(model):
    expected = {name: "fp16" if name in NORMS else "bf16" for name in FLOATS}
    assert assigned(model, "bf16", ["norm=fp16"]) == expected


def test_a_regex_is_searched_for_anywhere_and_in_its_case(model):
    assert assigned(model, rules=[r"\.0\..*up=bf16"]) == {"blk.0.ffn_up.weight": "bf16"}
    with pytest.raises(SelectionError, match="matches none"):
        assigned(model, rules=["NORM=bf16"])


def test_rules_as_text_and_as_rules(model):
    texts = ["norm=keep", "ffn=bf16"]
    assert assigned(model, rules=iter([Rule.parse(text) for text in texts])) == assigned(model, rules=texts)


def test_selection_comes_before_rules(model):
    assert assigned(model, "bf16", ["norm=fp16"], select=r"blk\.0") == {
        "blk.0.attn_norm.weight": "fp16",
        "blk.0.ffn_up.weight": "bf16",
    }
    assert assigned(model, "bf16", ["norm=fp16"], exclude=["ffn", "red"]) == dict.fromkeys(NORMS, "fp16")


def test_tensors_that_are_not_of_floats_may_be_kept(model):
    assert assigned(model, rules=["token=keep", "positions=keep", ".=bf16"]) == dict.fromkeys(FLOATS, "bf16")


def test_a_pair_has_the_tensor_and_the_format_itself(model):
    (pair,) = assign(model, None, ["blk.1.ffn=int4:row"], None, None).pairs
    assert pair == (next(tensor for tensor in model.tensors if tensor.name == UPS[1]), target("int4:row"))


# --- refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give a format: --to FORMAT, or --rule REGEX=FORMAT"),
        ({"to": "bf17"}, "no format is called 'bf17'"),
        ({"to": "keep"}, "no format is called 'keep'"),
        ({"to": "bf16", "rules": ["nothing=fp16"]}, "--rule nothing=fp16 matches none of the 7 tensors"),
        ({"to": "bf16", "rules": ["nothing=keep"]}, "--rule nothing=keep matches none"),
        ({"to": "bf16", "rules": ["norm=fp16"], "select": "ffn"}, "--rule norm=fp16 matches none of the 2 tensors"),
        ({"rules": ["norm=fp16", "attn=keep"]}, "--rule attn=keep is never reached: rules before it take every"),
        ({"to": "bf16", "rules": ["attn_norm=fp16", "ffn=keep", "blk=int8"]}, "--rule blk=int8 is never reached"),
        ({"to": "bf16", "rules": ["norm=fp16", "norm=fp16"]}, "--rule norm=fp16 is never reached"),
        ({"rules": ["token=bf16"]}, "token_embd.weight is block-quantized (Q8_0)"),
        ({"rules": [".=bf16"]}, "token_embd.weight is block-quantized (Q8_0)"),
        ({"rules": ["positions=int8"]}, "positions holds whole numbers (I32)"),
        ({"to": "bf16", "select": "embd"}, "token_embd.weight is block-quantized (Q8_0)"),
        ({"to": "bf16", "select": "embd|norm"}, "token_embd.weight is block-quantized (Q8_0)"),
        ({"to": "bf16", "select": "pos"}, "positions holds whole numbers (I32)"),
        ({"to": "bf16", "select": "nothing"}, "--include 'nothing' leaves none"),
        ({"to": "bf16", "exclude": ["blk", "red"]}, "tensor is selected, only I32, Q8_0"),
        ({"rules": [".=keep"]}, "no F32, F16, BF16 or F64 tensor is selected, only I32, Q8_0"),
        ({"rules": ["norm=keep"], "select": "norm"}, "every tensor is kept: nothing is to be rounded"),
    ],
)
def test_refused(model, arguments, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        assigned(model, **arguments)
    assert caught.value.exit_code == 2


def test_a_refusal_says_the_ways_out(model):
    with pytest.raises(SelectionError) as caught:
        assigned(model, rules=[".=bf16"])
    for way in ("-L", "REGEX=keep", "unquantized"):
        assert way in str(caught.value)


def test_a_rule_that_matches_nothing_shows_names_there_are(model):
    with pytest.raises(SelectionError, match=r"look like: token_embd.weight, blk.0.attn_norm.weight"):
        assigned(model, rules=["Norm=bf16"])


def test_names_and_rules_with_control_bytes_are_printed_escaped(tmp_path):
    """A tensor's name in each refusal that has one, and a rule that is asked for with one."""
    path = write(tmp_path / "evil.gguf", {EVIL: ("Q8_0", np.zeros(34, np.uint8)), "f": ("F32", words_for("F32", 3))})
    model = open_model(path)
    for arguments in (
        {"rules": ["red=bf16"]},
        {"to": "bf16", "select": "red"},
        {"rules": [f"not{re.escape(EVIL)}=bf16"]},
    ):
        with pytest.raises(SelectionError) as caught:
            assigned(model, **arguments)
        assert str(caught.value).isprintable()
        assert r"\x1b" in str(caught.value)
        assert r"\u202e" in str(caught.value)
