"""Options that several subcommands share."""

import json

import click
import pytest
from click.testing import CliRunner

from truebits.cli import options as shared
from truebits.cli.options import ASKED, HTML, JSON, PLOT, REPORT, SELECTION, STYLE, options
from truebits.errors import MissingExtra, UsageError
from truebits.files import remote


def run(arguments, *decorators):
    """Run a command that prints what it was given."""

    @click.command()
    @options(*decorators)
    def tell(**given):
        meta = click.get_current_context().meta
        click.echo(json.dumps(given | {kind: str(meta[name]) for kind, name in ASKED.items() if name in meta}))

    done = CliRunner().invoke(tell, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return json.loads(done.output)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (False, "text")),
        (["--json"], (True, "text")),
        (["-o", "json"], (True, "text")),
        (["-o", "json", "--json"], (True, "text")),
        (["--json", "-o", "csv"], (True, "csv")),
        (["-o", "csv"], (False, "csv")),
    ],
)
def test_json_is_a_style_and_an_option(arguments, expected):
    for decorators in ((JSON, STYLE), (STYLE, JSON)):
        got = run(arguments, *decorators)
        assert (got["as_json"], got["style"]) == expected


def test_a_report_has_no_csv():
    assert run(["-o", "md"], REPORT)["style"] == "md"
    with pytest.raises(click.BadParameter):
        run(["-o", "csv"], REPORT)


def test_selections_are_repeatable():
    got = run(["-l", "a", "--include", "b", "-L", "c"], SELECTION)
    assert (got["include"], got["exclude"]) == (["a", "b"], ["c"])


def test_options_keep_the_order_of_their_help():
    @click.command()
    @options(click.option("--first"), click.option("--second"))
    def command(**_): ...

    assert [one.name for one in command.params] == ["first", "second"]


@pytest.fixture
def settings(monkeypatch):
    for name in ("connections", "cache", "limit", "dry_run"):
        monkeypatch.setattr(remote.SETTINGS, name, getattr(remote.SETTINGS, name))
    return remote.SETTINGS


def test_options_on_urls_are_kept_for_whoever_reads_them(settings, tmp_path):
    before = settings.limit
    assert run([], shared.REMOTE) == {}
    assert settings.limit == before
    run(["--connections", "3", "--cache", str(tmp_path), "--fetch-limit", "1.5", "--dry-run"], shared.REMOTE)
    got = settings.connections, settings.cache, settings.limit, settings.dry_run
    assert got == (3, tmp_path, 1_500_000_000, True)


def test_files_that_are_asked_for_are_looked_at_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    page, picture = tmp_path / "page.html", tmp_path / "picture.PNG"
    assert run(["--html", str(page), "--plot", str(picture)], HTML, PLOT) == {"html": str(page), "plot": str(picture)}
    page.write_text("<!DOCTYPE html><html>")
    run(["--html", str(page)], HTML)
    page.write_text("")
    run(["--html", str(page)], HTML)
    page.write_text("somebody's notes")
    for arguments, words in (
        (["--html", str(page)], "the file is there, and no page"),
        (["--html", str(tmp_path / "no" / "page.html")], "there is no such folder"),
        (["--plot", "picture.gif"], r"a picture's name ends in \.png, \.svg, \.pdf"),
    ):
        with pytest.raises(UsageError, match=words):
            run(arguments, HTML, PLOT)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind in ("html", "plot"):
        with pytest.raises(MissingExtra, match=rf"truebits\[{kind}\]"):
            run([f"--{kind}", "x.png"], HTML, PLOT)
