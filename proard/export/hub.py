"""Sharing a student directory on the Hugging Face Hub; never needed, and the one part that writes to the network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from proard.common.errors import Stopped, UserError
from proard.export.named import HUB, REPOSITORY
from proard.export.student_directory import CARD, read_card

NAME = re.compile(REPOSITORY, re.ASCII)


def repository_name(target: str) -> str:
    """The name in ``hub:NAME``; checked, with all else that a later `push` needs and that can be known without network.

    Raises:
        UserError: another form, a missing package, or no access token.
    """
    name = target.removeprefix(HUB)
    if not target.startswith(HUB) or not NAME.fullmatch(name):
        raise UserError(f"--push {target}: give hub:NAME or hub:OWNER/NAME, with letters, digits, '-', '_' and '.'")
    _require_access(f"--push {target}", None)
    return name


def push(
    directory: str | Path,
    repository: str,
    *,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a verified student directory as one commit; a private repository is made if need be.

    Args:
        directory: with a student.json.
        repository: ``name`` or ``owner/name``.
        token: of an account that may write; default the one that ``hf auth login`` stored, or ``HF_TOKEN``.
        endpoint: another server than huggingface.co.

    Returns:
        The address of the repository.

    Raises:
        UserError: no student there, a damaged one, a missing package, or no token.
        Stopped: the server refuses, or cannot be reached; the directory is as it was.
    """
    card = read_card(directory)
    token = _require_access(f"push {repository}", token)
    from huggingface_hub import CommitOperationAdd, HfApi

    # The files of the card and no others: what else lies in the directory is nobody's business.
    folder = Path(directory)
    operations = [CommitOperationAdd(name, folder / name) for name in (*card["files"], CARD)]
    readme = front_matter(card, repository) + (folder / "README.md").read_text(encoding="utf-8")
    operations.append(CommitOperationAdd("README.md", readme.encode()))
    try:
        api = HfApi(endpoint=endpoint, token=token)
        repo = api.create_repo(repository, private=True, exist_ok=True)
        api.create_commit(repo.repo_id, operations, commit_message="A student of proard")
    except Exception as error:
        reason = next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
        raise Stopped(f"push {repository}: {reason[:300]}; the student is in {directory}") from error
    return str(repo)


def push_all(directories: Sequence[Path], repository: str) -> list[str]:
    """Upload each student; where there are several, to a repository of its own: ``<repository>-<directory>``.

    Raises:
        UserError, Stopped: as `push`.
    """
    several = len(directories) > 1
    return [push(path, f"{repository}-{path.name}" if several else repository) for path in directories]


def front_matter(card: Mapping[str, Any], name: str) -> str:
    """What a hub reads of a model card, its results among it (``model-index``); only what is uploaded has it.

    Args:
        card: the student.json.
        name: of the model.
    """
    evaluation = card["evaluation"]
    values = {"clean accuracy": evaluation["clean"]}
    values |= {f"accuracy under {robust['attack']['name']}": robust for robust in evaluation["robust"]}
    metrics = [
        {"type": "accuracy", "name": kind, "value": round(value["correct"] / value["images"], 4)}
        for kind, value in values.items()
    ]
    data = {"name": card["data"]["name"], "type": card["data"]["name"], "split": evaluation["split"]}
    result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}
    about = {
        "library_name": "proard",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness"],
        "model-index": [{"name": name, "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n"


def _require_access(where: str, token: str | None) -> str:
    if find_spec("huggingface_hub") is None:
        raise UserError(f"{where}: needs the package 'huggingface_hub'; pip install 'proard[hub]'")
    from huggingface_hub import get_token

    if not (token := token or get_token()):
        raise UserError(f"{where}: no access token; run 'hf auth login', or set HF_TOKEN to a token that may write")
    return token
