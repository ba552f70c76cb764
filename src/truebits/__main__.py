"""``python -m truebits`` is the command ``truebits``."""

from truebits.cli.main import main

main()
