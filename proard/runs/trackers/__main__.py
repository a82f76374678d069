"""``python -m proard.runs.trackers RUN NAME [OPTION=VALUE ...]``: give a tracker what a run's metrics.jsonl has."""

from __future__ import annotations

import sys

import yaml

from proard.common.errors import Stopped, UserError
from proard.runs.trackers import replay

USAGE = "python -m proard.runs.trackers RUN NAME [OPTION=VALUE ...], such as runs/quickstart tensorboard"


def main(arguments: list[str]) -> int:
    """Replay a run to a tracker; exit codes are those of `proard`: 0 done, 2 the input is wrong, 1 anything else."""
    try:
        if len(arguments) < 2 or not all("=" in text for text in arguments[2:]):
            raise UserError(USAGE)
        run, name, *options = arguments
        values = {key: yaml.safe_load(text) for key, _, text in (option.partition("=") for option in options)}
        print(f"logged:  {replay(run, name, **values)} rows of {run}")
    except (UserError, Stopped) as error:
        print(f"proard: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
