"""The subcommands of `truebits`, one function each; `truebits.cli` puts them together."""
