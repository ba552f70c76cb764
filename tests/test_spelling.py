"""Names to formats: any case, aliases, options of integers; and what is said to a name that is none."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from truebits.errors import UsageError
from truebits.numbers.formats import BLOCK_TYPES, CATALOGUE, SHARED, Integer
from truebits.numbers.spelling import ALIASES, find, target

# --- spelling: one name, one format


@pytest.mark.parametrize("name", [*CATALOGUE, *ALIASES, *SHARED, *BLOCK_TYPES, "e5m7", "e2m0", "int8", "int4:row:mse"])
def test_names_in_any_case(name):
    expected = target(name)
    for spelled in (name.upper(), name.title(), name.swapcase()):
        assert target(spelled) == expected
    assert target(expected.name) == expected


@pytest.mark.parametrize(("alias", "name"), [*ALIASES.items(), ("e5m2", "fp8_e5m2"), ("fp4", "fp4_e2m1fn")])
def test_aliases(alias, name):
    assert find(alias) is target(alias) is CATALOGUE[name]


def test_e4m3_is_ieee_and_e4m3fn_is_ocp():
    assert find("e4m3").largest == 240
    assert find("e4m3fn").largest == 448


@pytest.mark.parametrize("name", [*SHARED, *BLOCK_TYPES, "int8"])
def test_what_shares_scales_is_no_float_format(name):
    assert target(name).name.startswith(name)
    with pytest.raises(UsageError, match="no format is called"):
        find(name)


@settings(max_examples=200, deadline=None)
@given(
    bits=st.integers(2, 16),
    scale=st.sampled_from(["", "row", "tensor", "block2", "block32", "block128", "block65536"]),
    affine=st.booleans(),
    mse=st.booleans(),
    order=st.randoms(use_true_random=False),
)
@example(bits=4, scale="block128", affine=True, mse=True, order=None)
def test_options_of_integers_in_any_order(bits, scale, affine, mse, order):
    options = [*[scale] * bool(scale), *["affine"] * affine, *["mse"] * mse]
    if order:
        order.shuffle(options)
    got = target(":".join([f"int{bits}", *options]))
    per, block = re.fullmatch(r"([a-z]*)(\d*)", scale or "block32").groups()
    assert got == Integer(bits, per, int(block or 32), affine, mse)
    assert target(got.name) == got


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("int8", "int8:block32"),
        ("INT4:AFFINE:Block128", "int4:block128:affine"),
        ("int2:mse:row:affine", "int2:row:affine:mse"),
        ("int16:tensor", "int16:tensor"),
        ("F16", "fp16"),
        ("Q4_K", "q4_k"),
        ("MXFP4", "mxfp4"),
    ],
)
def test_the_name_of_a_format_tells_all_of_it(name, canonical):
    assert target(name).name == canonical


# --- spelling: refused


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("int8:row:tensor", "tensor"),
        ("int8:row:row", "row"),
        ("int8:block32:row", "row"),
        ("int8:tensor:block64", "block64"),
        ("int8:block32:block32", "block32"),
        ("int4:affine:row:affine", "affine"),
        ("int4:mse:mse", "mse"),
    ],
)
def test_an_option_is_given_once(name, again):
    with pytest.raises(UsageError, match=f"{name.split(':')[0]}: '{again}' says a second time"):
        target(name)


@pytest.mark.parametrize(
    "option",
    ["", "rows", "sym", "block", "block0", "block1", "block65537", "block9999999", "block-2", "block٣2", " row"],
)
def test_an_unknown_option_is_answered_with_those_there_are(option):
    with pytest.raises(UsageError, match="no option") as caught:
        target(f"int8:{option}")
    for known_one in ("blockN", "row", "tensor", "affine", "mse", repr(option)):
        assert known_one in str(caught.value)


@pytest.mark.parametrize("name", ["bf16", "e5m7", "mxfp4", "nvfp4", "q8_0", "q4_k"])
def test_only_integers_have_options(name):
    with pytest.raises(UsageError, match=f"{name} has no option 'row': only intN has any"):
        target(f"{name}:row")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fp8e4m3", "fp8_e4m3fn"),
        ("q4k", "q4_k"),
        ("int17", "int8"),
        ("int1", "int4"),
        ("mxfp5", "mxfp4"),
        ("nvfp8", "nvfp4"),
        ("bf17", "bf16"),
        ("Float8_E5M2", "fp8_e5m2"),
        ("q8", "q8_0"),
        ("int4.row", "int4"),
        ("bf61", "bf16"),
        ("fp8_e4m3", "fp8_e4m3fn"),
        ("float61", "float16"),
        ("tf23", "tf32"),
        ("FP8_E5M3", "fp8_e5m2"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name, near):
    with pytest.raises(UsageError) as caught:
        target(name)
    suggested = re.split("[ ,]+", str(caught.value).split("did you mean ")[1].split("?")[0])
    assert near in suggested
    assert all(target(one) for one in suggested)
    assert repr(name.lower()) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        ":row",
        "e1m3",
        "e9m3",
        "e5m24",
        "em",
        "e5m",
        "e5m-1",
        "e55m7",
        "xe5m7",
        "e5m7x",
        "e٥m2",
        "int",
        "int0",
        "int100",
    ],
)
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="no format is called") as caught:
        target(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fp8", "fp8_e4m3fn"), ("FP6", "fp6_e2m3fn"), ("Q4_K_M", "--to q4_k")],
)
def test_a_name_that_means_several_things_says_which(name, expected):
    with pytest.raises(UsageError, match=expected):
        target(name)


def test_a_name_like_none_is_answered_with_all():
    with pytest.raises(UsageError) as caught:
        find("???")
    assert all(name in str(caught.value) for name in CATALOGUE)


def test_no_alias_hides_a_format():
    assert set(ALIASES.values()) <= set(CATALOGUE)
    assert not set(ALIASES) & set(CATALOGUE)
