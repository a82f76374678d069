"""Standard output and error that fail: a full disk, a reader or a terminal that is gone, closed ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proard.commands.streams import enduring_streams
from proard.runs.checkpoint import load_checkpoint

PROARD = f"{sys.executable} -m proard"
NO_FULL_DISK = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a line for bash."""
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@NO_FULL_DISK
@pytest.mark.parametrize(
    ("streams", "code"),
    [
        pytest.param(">/dev/full 2>/dev/full", 1, id="full", marks=pytest.mark.slow),
        pytest.param(">&- 2>&- <&-", 0, id="closed"),
        pytest.param("| true; exit ${PIPESTATUS[0]}", 0, id="nobody reads", marks=pytest.mark.slow),
    ],
)
def test_a_training_goes_on(streams: str, code: int, tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["phases"] = tiny["phases"][:1]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    run = tmp_path / "run"
    found, _, errors = shell(f"{PROARD} train --config {tmp_path / 'tiny.yaml'} --run {run} {streams}")
    assert (found, errors) == (code, "")
    assert load_checkpoint(run / "checkpoint.pt")["finished"]


@NO_FULL_DISK
def test_a_result_that_is_lost_is_said() -> None:
    assert shell(f"{PROARD} configs > /dev/full") == (
        1,
        "",
        "proard: standard output: No space left on device\n",
    )
    assert shell(f"{PROARD} configs 2> /dev/full")[0] == 0
    assert shell(f"{PROARD} configs nonsense 2> /dev/full") == (2, "", "")
    assert shell(f"{PROARD} configs >&-") == (0, "", "")


def test_what_is_opened_later_is_not_taken_for_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os\nfrom proard.commands.streams import enduring_streams\n"
        f"with enduring_streams():\n    file = open({str(tmp_path / 'file')!r}, 'w')\n    assert file.fileno() > 2\n"
        "    os.write(1, b'from C')"
    )
    assert shell(f'{sys.executable} -c "{program}" >&- 2>&- <&-')[0] == 0
    assert (tmp_path / "file").read_text() == ""


def test_any_name_is_printed_on_any_terminal() -> None:
    program = "from proard.commands.streams import enduring_streams\nwith enduring_streams(): print('M\u00f6we \u2713')"
    code, output, _ = shell(f'{sys.executable} -c "{program}"', PYTHONIOENCODING="ascii")
    assert (code, output) == (0, "M\\xf6we \\u2713\n")


class Failing(io.StringIO):
    """A stream that fails once."""

    def __init__(self, failure: OSError) -> None:
        super().__init__()
        self.failures = [failure]

    def write(self, text: str) -> int:
        if self.failures:
            raise self.failures.pop()
        return super().write(text)


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe")])
def test_only_who_reads_is_told(failure: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := Failing(failure))
    with enduring_streams() as check:
        print("lost")
        if isinstance(failure, BrokenPipeError):
            check()
        else:
            with pytest.raises(OSError, match="Input/output error"):
                check()
    assert sys.stdout is stream
