"""Runs what README.md and the pages of docs/ show. What each kind of block is held to:

- ``console``: each ``$ `` command is run as it is written, in the order of the page (`playing`), by the real command
  line on short configurations (`shortening`), in a folder with what readers of that page have (`world`). It must leave
  with exit code 0, or with 2 where the page shows the line of an error. Lines that the page shows after a command must
  be printed by it; numbers are free (`shapes`).
- ``python``: executed, in one namespace a page; or written to the file that the text before it names.
- ``yaml``: read by `proard.config`, and what it configures is built; the file of the next command that names one.
- ``json``: its keys must be those of a file that the commands of the page wrote.
- ``text``: every line must have been printed by a command before it on the page, or by the quickstart.
- ``bash``: its syntax is checked, and the commands of proard in it are parsed (`parsing`).
- Commands in running text, and commands that are too long to run, are parsed by the real parsers, which refuse what is
  not an option, a configuration, an attack or a budget.

Any other block is a fault, unless a test lists it with a reason.
"""
