"""The command line (`cli.py`), and one file per command: each has the function that the command calls."""
