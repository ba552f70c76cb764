"""The command line: one module per kind of command."""

from truebits.cli.app import main as main
