"""``python -m proard`` is the ``proard`` command."""

from proard.commands.cli import main

if __name__ == "__main__":
    main()
