"""``python -m maskline``: the command line."""

from maskline.cli import main

main()
