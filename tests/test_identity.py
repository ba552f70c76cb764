"""Fingerprints and what became of them, for a reader."""

import csv
import io

import pytest

from truebits.comparing.fingerprint import Fingerprint
from truebits.comparing.verify import Check, Verification
from truebits.precision.hashing import TensorFingerprint
from truebits.report.identity import headline, tensors, verified

PLAIN = TensorFingerprint("a", "F32", (2, 3), 6, "values", "ab" * 32)
PACKED = TensorFingerprint("b\x1b", "Q4_0", (), 32, "bytes", "cd" * 32)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([PLAIN], "  m\\x1b.gguf: 6 values of 1 tensor"),
        ([PLAIN, PLAIN._replace(name="c")], "  m\\x1b.gguf: 12 values of 2 tensors"),
        (
            [PLAIN, PACKED],
            "  m\\x1b.gguf: 6 values of 1 tensor; not in it: 1 tensor of block-quantized or integer type",
        ),
        ([PACKED], "none  m\\x1b.gguf: no F32, F16, BF16 or F64 tensor among 1; -o csv lists the hash of each"),
    ],
)
def test_headline(found, expected):
    of = Fingerprint("folder/m\x1b.gguf", tuple(found))
    got = headline(of)
    assert got == (of.value or "") + expected


def test_a_row_for_each_tensor():
    rows = list(csv.reader(io.StringIO(tensors(Fingerprint("m", (PLAIN, PACKED))).render("csv"))))
    assert rows[1:] == [
        ["a", "F32", "2 x 3", "6", "values", "ab" * 32],
        ["b\\x1b", "Q4_0", "scalar", "32", "bytes", "cd" * 32],
    ]


SAME = Check("a", "same", "F32", "F32", "same values")
STORED = Check("b", "same", "F32", "F16", "same values, stored as F16")
CHANGED = Check("c", "changed", "F32", "F32", "other values")
UNKNOWN = Check("d\x1b", "requantized", "Q4_0", "Q8_0", "not comparable by hash")


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([SAME], "Same: its 1 tensor is there and holds what it held."),
        (
            [SAME, STORED],
            "Same: all 2 tensors are there and hold what they held. 1 of them: same values, stored as F16, not F32.",
        ),
        ([SAME, CHANGED], "Not the same model: of 2 tensors 1 are the same, 1 changed."),
        ([SAME, CHANGED, UNKNOWN], "Not the same model: of 3 tensors 1 are the same, 1 changed, 1 requantized."),
        ([SAME, UNKNOWN], "Not verified: of 2 tensors 1 are the same, 1 cannot be compared by hash."),
    ],
)
def test_verified(checks, expected):
    got = verified(Verification("m.gguf", tuple(checks)), "text")
    assert expected in got
    assert "\x1b" not in got
    rows = verified(Verification("m.gguf", tuple(checks)), "csv").splitlines()
    assert len(rows) == 1 + sum(check.verdict != "same" for check in checks)
