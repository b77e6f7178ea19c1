"""``python main.py -c CONFIG -o Section.key=value``, as the documents of the reference have it: see docs/config.md."""

from maskline.cli import main

if __name__ == "__main__":
    main()
