"""What `show` says of a header: all of it, in lines that fit, in memory bounded by the header's size."""

import json
import resource
import subprocess
import sys

import pytest

from gguf_bytes import ARRAY, BOOL, F32, F64, I32, STRING, U8, alignment, array, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from truebits.files.model import open_model
from truebits.report import listing

NAN, INF = float("nan"), float("inf")
KEYS = {
    b"general.architecture": (STRING, string(b"llama")),
    b"general.name": (STRING, string("Käse\n7b".encode())),
    b"raw": (STRING, string(b"\xff")),
    b"float": (F32, scalar(F32, 1e-5)),
    b"nan": (F64, scalar(F64, NAN)),
    b"truth": (BOOL, b"\1"),
    b"few": (ARRAY, array(I32, [scalar(I32, n) for n in (-1, 0, 2)])),
    b"many": (ARRAY, array(F32, [scalar(F32, INF)] * 5000)),
    b"words": (ARRAY, array(STRING, [string(b"a"), string(b"\n")])),
    b"nothing": (ARRAY, array(F64, [])),
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    keys = [key_value(key, *value) for key, value in KEYS.items()]
    infos = [tensor(b"blk.0.attn_q.weight", (256, 4), 12), tensor(b"norm", (256,), 0, 576)]
    path.write_bytes(gguf_bytes(keys, infos, bytes(1600)))
    return open_model(path)


def test_metadata_in_a_table(model):
    expected = [
        ("general.architecture", "llama"),
        ("general.name", r"Käse\n7b"),
        ("raw", r"\xff"),
        ("float", "1e-05"),
        ("nan", "nan"),
        ("truth", "True"),
        ("few", "[-1, 0, 2]"),
        ("many", "5,000 numbers"),
        ("words", "2 strings"),
        ("nothing", "[]"),
    ]
    assert listing.metadata(model).rows == expected


def test_metadata_in_json_is_complete(model):
    got = json.loads("".join(listing.document(model, model.tensors)))["metadata"]
    assert got.pop("float") == pytest.approx(1e-5)
    assert got == {
        "general.architecture": "llama",
        "general.name": "Käse\n7b",
        "raw": r"\xff",
        "nan": None,
        "truth": True,
        "few": [-1, 0, 2],
        "many": [None] * 5000,
        "words": ["a", "\n"],
        "nothing": [],
    }


def test_about(model):
    bits = 8 * 1600 / 1280
    expected = f"Käse\\n7b · llama · {model.size / 1000:.1f} kB · 1.3 k weights · {bits:.2f} bits per weight"
    assert listing.about(model, 100) == expected
    assert listing.about(model, 30).splitlines()[1:] == ["  1.3 k weights", f"  {bits:.2f} bits per weight"]


def test_types(model):
    assert [tuple(row) for row in listing.types(model).rows] == [
        ("F32", 1, 256, 1024, "64.00 %", 32.0),
        ("Q4_K", 1, 1024, 576, "36.00 %", 4.5),
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 100])
@pytest.mark.parametrize("name", [b"n" * 65_535, b"blk.0.%s.weight" % (b"x" * 300)])
def test_lines_fit_whatever_the_names(tmp_path, name, width):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes([key_value(name[:300], STRING, string(b"v" * 500))], [tensor(name)], bytes(32)))
    model = open_model(path)
    tables = [listing.metadata(model), listing.tensors(model.tensors), listing.types(model)]
    lines = [line for table in tables for line in table.render("text", max(width, 60)).splitlines()]
    assert max(map(len, lines)) <= max(width, 60)
    assert len(listing.tensors(model.tensors).render("csv").splitlines()[1]) > len(name)


def peak(*arguments: str) -> tuple[str, int]:
    """Run a command; return what it printed and the most memory it had, in MiB."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'truebits', *sys.argv[1:]], capture_output=True, text=True)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, len(done.stdout))\n"
        "print(max(map(len, done.stdout.splitlines())))\n"
        "print(done.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    return done.stdout, int(done.stdout.split()[1])


MANY = [tensor(b"t%d" % i, (0,)) for i in range(65_535)]


@pytest.mark.parametrize("flag", ["--by-tensor", "--json", "-otext"])
@pytest.mark.parametrize(
    "data",
    [
        gguf_bytes([], [tensor(b"n" * 65_000, (0,)), *MANY]),
        gguf_bytes([], [tensor(b"t%d" % i + b"x" * 64, (0, 1, 1, 1, 1)) for i in range(60_000)]),
        gguf_bytes([key_value(b"a", ARRAY, array(U8, [bytes(1)] * (8 << 20)))]),
    ],
    ids=["one long name", "60,000 of each warning", "long array"],
)
def test_memory_is_bounded_by_the_header(tmp_path, data, flag):
    """One name of 65,000 bytes in a table of 65,536 rows took 6 GB."""
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    printed, memory = peak("show", str(path), flag)
    code, _, _, longest, *warnings = printed.split("\n")[0].split() + printed.split("\n")[1:]
    assert code == "0"
    assert memory < 60 + 24 * len(data) / 2**20
    assert flag == "--json" or int(longest) <= 100
    assert len(list(filter(None, warnings))) <= 3


def test_an_alignment_of_2_gib_is_not_looked_at(tmp_path):
    path = tmp_path / "model.gguf"
    keys, big = [alignment(1 << 31)], 1 << 31
    path.write_bytes(gguf_bytes(keys, [tensor(b"a"), tensor(b"b", (8,), 0, big)], padding=b""))
    with path.open("r+b") as file:
        file.truncate(2 * big + 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (finding,) = open_model(path).parts[0].findings
    assert (finding.error.code, finding.stops_writing) == ("E_LAYOUT", True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
