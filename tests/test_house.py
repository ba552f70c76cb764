"""The house: imports go down only, names mean one thing, modules fit the eye, and the door opens quickly."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

import truebits as tb

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/truebits"
LONGEST_MODULE = 350
IMPORT_SECONDS = 0.015


@pytest.fixture
def house(tmp_path):
    """Give a copy of the packages, for a wrong import, and what lints it."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copytree(ROOT / "native", tmp_path / "native")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def lint() -> subprocess.CompletedProcess[str]:
        where = {"PYTHONPATH": f"{tmp_path / 'src'}:{tmp_path / 'native'}", "COLUMNS": "200"}
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True)

    lint.root = tmp_path
    return lint


@pytest.mark.skipif(find_spec("importlinter") is None, reason="needs the group lint")
@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("src/truebits/files/tensor.py", "from truebits.precision import scan", "Imports go down"),
        ("src/truebits/precision/scan.py", "from truebits.report import table", "Imports go down"),
        ("src/truebits/comparing/diff.py", "from truebits.rewriting import copy", "Imports go down"),
        ("native/truebits_native/types.py", "from truebits import errors", "The kernels know nothing"),
    ],
)
def test_lint_fails_where_an_import_goes_up(house, module, line, expected):
    path = house.root / module
    path.write_text(f"{path.read_text()}\n\ndef _up():\n    {line}\n")
    got = house()
    assert got.returncode != 0
    broken = [line for line in got.stdout.splitlines() if "BROKEN" in line]
    assert len(broken) == 1
    assert expected in broken[0]


def modules() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if "data" not in path.parts]


TESTED_BY = {
    "truebits/_version.py": ("test_app.py", "one line, which the command --version prints"),
    "truebits/quantizers/meaning.py": (
        "test_checkpoints.py",
        "what reading a checkpoint gives: it has no code to speak of",
    ),
    "truebits/cli/surveying.py": ("test_survey.py", "the command survey"),
}
"""Modules without a test file of their name: the one that tests them, and why."""


def test_every_module_has_its_test_file():
    """Of its name, those of the native package with a word more; one for a kernel and its twin."""
    tests = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    native = [path for path in (ROOT / "native").rglob("*.py") if "__pycache__" not in path.parts]
    lacking = set()
    for path in [*modules(), *native]:
        name = str(path.relative_to(SOURCE.parent if path.is_relative_to(SOURCE) else ROOT / "native"))
        own = {f"test_{path.stem}.py", *([f"test_native_{path.stem}.py"] if path in native else [])}
        if not path.stem.startswith("__") and not own & tests:
            lacking.add(name)
    assert lacking == set(TESTED_BY), "modules without a test file, or exceptions that are none"
    assert {test for test, _ in TESTED_BY.values()} <= tests


def test_no_test_imports_another():
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    for path in (ROOT / "tests").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in tests, path
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & tests, path


def test_no_module_is_longer_than_the_eye():
    got = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: lines for name, lines in got.items() if lines > LONGEST_MODULE} == {}


def test_no_two_classes_have_one_name():
    names = Counter(
        node.name
        for path in modules()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_modules_import_each_other():
    def name(path: Path) -> str:
        return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")

    names = {name(path) for path in modules()}
    arrows = {}
    for path in modules():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        arrows[name(path)] = (found & names) - {name(path), "truebits", "truebits._version"}
    left = dict(arrows)
    while free := [module for module, below in left.items() if not below & left.keys()]:
        for module in free:
            del left[module]
    assert left.keys() == set(), "modules in a circle, or above one"


@pytest.mark.parametrize("name", [name for name in tb.__all__ if name != "__version__"])
def test_every_public_name_is_documented_and_typed(name):
    public = getattr(tb, name)
    assert inspect.getdoc(public)
    if inspect.isfunction(public):
        signature = inspect.signature(public)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())


@pytest.mark.parametrize("name", ["scan", "low_bits", "check", "truncate", "fakequant", "sweep", "plan", "experiment"])
def test_a_selection_comes_second_and_third(name):
    function = getattr(tb, name)
    got = list(inspect.signature(function).parameters)
    first = got.index("select")
    assert got[first : first + 2] == ["select", "exclude"]
    assert all(
        one.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        for one in list(inspect.signature(function).parameters.values())[first + 2 :]
    )


def test_importing_is_quick():
    program = (
        "import sys, time\n"
        "start = time.process_time()\n"
        "import truebits\n"
        "print(time.process_time() - start)\n"
        "heavy = {'numpy', 'numba', 'click', 'gguf', 'tqdm', 'json', 'inspect'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(5)]
    assert {run.stderr for run in runs} == {""}
    assert min(float(run.stdout) for run in runs) < IMPORT_SECONDS


def test_a_small_scan_imports_what_it_uses(tmp_path):
    path = tb.synth(tmp_path / "model.gguf", size=1 << 16)
    program = (
        "import sys\n"
        "from truebits.cli import app\n"
        f"sys.argv = ['truebits', 'scan', {str(path)!r}]\n"
        "try:\n"
        "    app.main()\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    unused = {"numba", "gguf", "tqdm", "jinja2", "truebits.report.blocks", "truebits.report.json"}
    unused |= {"truebits.quantizers.checkpoints", "truebits.rewriting.durable", "truebits.precision.sampling"}
    assert unused & set(done.stderr.split()) == set()


def test_no_help_prints_an_escape():
    from truebits.cli.app import app

    context = click.Context(app)
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        text = command.get_help(click.Context(command, info_name=name))
        assert "\\b" not in text, name
        assert "\b" not in text, name
