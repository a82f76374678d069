"""What a command ends with: an exit code, and one line on standard error where it could not do its work."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from proard.common.errors import Stopped, UserError, out_of_memory
from proard.common.terminal import styled


def exit_code(command: Callable[[], Any]) -> int:
    """Run a command: 0 done, 2 the input is wrong, 130 on Ctrl-C, 1 stopped for another reason that it can say.

    Args:
        command: returns nothing, or a code. An exception that is none of these is a bug, and goes on.
    """
    usage_error: Any = typer.BadParameter.__base__  # of click, or of the copy of it that newer typer versions carry
    try:
        code = command()
        if code == 130:  # what newer typer versions make of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        return _fail(str(error), 2)
    except usage_error as error:
        return _fail(f"{error.format_message()} (see 'proard --help')", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except Stopped as error:  # which all processes of a job mostly do together: one of them says it
        says = error.alone or os.environ.get("RANK", "0") == "0"
        return _fail(str(error), error.exit_code) if says else error.exit_code
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # of PyTorch, which is not imported for this
            raise
        return _fail(f"{out_of_memory(error)}; end what else uses the device, or compute on another: device cpu", 1)
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    return code or 0


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"{styled('proard:', sys.stderr, fg='red', bold=True)} {line}", file=sys.stderr)
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # what torchrun's own report, the last of all, then shows
        with suppress(OSError):
            Path(report).write_text(json.dumps({"message": f"proard: {line}", "timestamp": int(time.time())}))
    return code
