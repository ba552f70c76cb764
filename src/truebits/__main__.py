"""``python -m truebits`` is the command ``truebits``."""

from truebits.cli import main

main()
