"""Students and runs that are named instead of lying in a folder: ``zoo:SET/STUDENT`` comes with the package, and
``hub:OWNER/NAME`` is on a hub.

Nothing is downloaded without that prefix. What comes from a hub is checked as any other file: by the checksums of
its card, and by what its network must be.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from proard.common import paths
from proard.common.errors import Stopped, UserError, first_line, nearest

HUB, ZOO = "hub:", "zoo:"
ZOO_FOLDER = Path(__file__).parent / "zoo"  # SET/STUDENT/, SET/images/ and SET/supernet.txt
CARD = "student.json"
REPOSITORY = r"([\w-][\w.-]*/)?[\w-][\w.-]*"
HUB_NAME = re.compile(rf"{HUB}(?P<repository>{REPOSITORY})(@(?P<revision>[\w./-]+))?", re.ASCII)
TIMEOUT = 5.0  # seconds for an answer, of each of the client's few attempts
FILE = re.compile(r"student\.[\w.-]+", re.ASCII)
RUN_FILES = ("config.yaml", "checkpoint.pt", "checkpoint.pt.sha256", "front.json", "latency.json")


def is_named(place: str | Path) -> bool:
    """Whether it is such a name, which means the same from any folder."""
    return str(place).startswith((HUB, ZOO))


def zoo() -> dict[str, Path]:
    """The students that come with the package: name to directory, set by set, the cheapest of each first."""

    def set_and_cost(card: Path) -> tuple[str, int]:
        return card.parts[-3], json.loads(card.read_text(encoding="utf-8"))["multiply_adds"]

    cards = sorted(ZOO_FOLDER.glob(f"*/*/{CARD}"), key=set_and_cost)
    return {f"{ZOO}{card.parts[-3]}/{card.parts[-2]}": card.parent for card in cards}


def student_folder(place: str | Path) -> Path:
    """Where a student's files are on this machine; in the hub's own cache if it is on a hub.

    Args:
        place: a directory (which is not looked into), ``zoo:SET/STUDENT``, ``hub:OWNER/NAME`` or
            ``hub:OWNER/NAME@REVISION``.

    Raises:
        UserError: there is none of that name, or no access to it.
        Stopped: the hub cannot be reached.
    """
    if not is_named(place):
        return paths.path_of(place)
    if str(place).startswith(ZOO):
        students = zoo()
        if str(place) not in students:
            raise UserError(
                f"{place}: no such student in the zoo, which 'proard zoo' lists{nearest(str(place), students)}"
            )
        return students[str(place)]
    folder = _download(str(place), [CARD])
    return _download(str(place), [CARD, *_files(folder / CARD)])


def run_folder(place: str | Path, runs: Path) -> Path:
    """Where a run is on this machine; downloaded into ``runs`` if it is on a hub.

    Raises:
        UserError: there is none of that name, or no access to it; of the zoo, always: it says where such a run is.
        Stopped: the hub cannot be reached.
    """
    if not is_named(place):
        return paths.path_of(place)
    name = str(place)
    if name.startswith(ZOO):
        sets = sorted(ZOO + file.parent.name for file in ZOO_FOLDER.glob("*/supernet.txt"))
        if name not in sets:
            raise UserError(f"{name}: no such set in the zoo, whose students 'proard zoo' lists{nearest(name, sets)}")
        where = (ZOO_FOLDER / name.removeprefix(ZOO) / "supernet.txt").read_text(encoding="utf-8")
        raise UserError(f"{name}: students come with the package, their supernet does not; {' '.join(where.split())}")
    return _download(name, RUN_FILES, runs / name.removeprefix(HUB).replace("/", "--"))


def _files(card: Path) -> list[str]:
    """The files that a card names; what else it may be is for its reader to find out."""
    try:
        return [name for name in json.loads(card.read_text(encoding="utf-8"))["files"] if FILE.fullmatch(name)]
    except (ValueError, KeyError, TypeError):
        return []


def _download(name: str, files: Sequence[str], into: Path | None = None) -> Path:
    """The folder in which these files of a repository are.

    File by file: a listing of the repository would wait for ever on a server that says nothing.

    Args:
        name: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``.
        files: the first one must be there; of the others, those that are.
        into: where to; default the hub's own cache.

    Raises:
        UserError: another form of name, a missing package, no such repository, revision or file, or no access.
        Stopped: the server cannot be reached, or does not answer in time.
    """
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name}: give hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    if find_spec("huggingface_hub") is None:
        raise UserError(f"{name}: needs the package 'huggingface_hub'; pip install 'proard[hub]'")
    found = [_file(name, match["repository"], match["revision"], file, into) for file in files]
    if found[0] is None:
        raise UserError(f"{name}: the repository has no {files[0]}, so it is nothing that proard wrote")
    return into or found[0].parent


def _file(name: str, repository: str, revision: str | None, file: str, into: Path | None) -> Path | None:
    """A file of the Hugging Face Hub, or of the server ``HF_ENDPOINT``; None where the repository has none."""
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it announces every attempt; what counts is the last one's error, said below
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        path = hf_hub_download(
            repository, file, revision=revision, local_dir=into, endpoint=endpoint, etag_timeout=TIMEOUT
        )
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no revision '{revision}'") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such repository, or one that this machine has no access to; check the name, run "
            "'hf auth login', or set HF_TOKEN"
        ) from None
    except errors.LocalEntryNotFoundError as error:  # not in the cache, after the server did not answer
        reason = error.__cause__ or error
        raise Stopped(f"{name}: the hub cannot be reached ({first_line(reason)[:200]})") from error
    except errors.EntryNotFoundError:
        return None
    except Exception as error:  # of the network, in many types
        raise Stopped(f"{name}: the hub cannot be reached ({first_line(error)[:200]})") from error
    return Path(path)
