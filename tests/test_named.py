"""Students and runs by name: on a hub, which is here a server of our own on this machine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from running import command

from proard import extract, load_student, train
from proard.common.errors import Stopped, UserError
from proard.config import TeacherConfig, parse_config
from proard.export.hub import front_matter
from proard.export.named import student_folder
from proard.export.student_directory import read_card
from proard.runs.resolve import resolve
from proard.runs.run import Run

pytest.importorskip("huggingface_hub")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Repositories by name, each with files by name; it says what the Hub says of those that it has not."""
    state = SimpleNamespace(repositories={}, asked=[])

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            state.asked.append(self.path)
            owner, name, _, revision, file = (*self.path.removeprefix("/").split("/", 4), "", "", "")[:5]
            files = state.repositories.get(f"{owner}/{name}")
            problem = (
                "RepoNotFound"
                if files is None
                else "RevisionNotFound"
                if revision not in ("main", "v1", "a" * 40)
                else None
                if file in files
                else "EntryNotFound"
            )
            body = b"" if problem else files[file]
            self.send_response(404 if problem else 200)
            if problem:
                self.send_header("X-Error-Code", problem)
            else:
                self.send_header("ETag", f'"{hash(body)}"')
                self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = respond

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def student(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student directory, in the run that it was cut from."""
    run = tmp_path_factory.mktemp("named") / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("students"))
    (made,) = extract(flops="1G", run=run, quiet=True)
    return made.path


def files_of(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names or (*read_card(folder)["files"], "student.json")}


def test_a_student_from_a_hub_is_the_one_that_was_pushed(hub: SimpleNamespace, student: Path) -> None:
    hub.repositories["me/robust"] = {**files_of(student), "malware.pkl": b"", "README.md": b""}
    expected = load_student(student)
    for name in ("hub:me/robust", "hub:me/robust@v1"):
        found = load_student(name)
        assert found.card == expected.card
        for key, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor)
    assert not any("malware" in path or "README" in path for path in hub.asked)  # no more than the card names


def test_it_works_wherever_a_student_is_named(
    hub: SimpleNamespace, student: Path, tiny: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    hub.repositories["me/robust"] = files_of(student)
    assert command("evaluate", "hub:me/robust", "--diagnose", "--teacher", "hub:me/robust", "--limit", "20") == 0
    assert "student: hub:me/robust" in capsys.readouterr().out
    assert not list((tmp_path / "cache").rglob("diagnostics.json"))
    distilling = {**tiny, "teacher": "hub:me/robust", "phases": [{**tiny["phases"][2]}]}
    run = train(distilling, run=tmp_path / "run", quiet=True, scale_epochs=0.1)
    assert yaml.safe_load((run / "config.yaml").read_text())["teacher"]["source"] == "hub:me/robust"
    for section in ("weights", "directory"):
        alone = {**tiny, "mode": "student", "student": {section: "hub:me/robust"}, "phases": tiny["phases"][:1]}
        if section == "weights":
            alone["student"]["architecture"] = read_card(student)["architecture"]
        config = parse_config({k: v for k, v in alone.items() if section == "weights" or k != "supernet"})
        assert str(resolve(config).student.weights) == "hub:me/robust"
        train(config, run=tmp_path / section, quiet=True, scale_epochs=0.1)


def test_a_run_from_a_hub(hub: SimpleNamespace, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/net"] = files_of(student.parent.parent, "config.yaml", "checkpoint.pt", "checkpoint.pt.sha256")
    monkeypatch.chdir(tmp_path)
    assert command("extract", "--run", "hub:me/net@v1", "--flops", "1G", "--quiet") == 0
    weights = next(Path("runs/me--net@v1/students").glob("*/student.safetensors"))
    assert weights.read_bytes() == (student / "student.safetensors").read_bytes()
    assert Run.find("hub:me/net@v1").path == Path("runs/me--net@v1")
    damaged = bytearray(hub.repositories["me/net"]["checkpoint.pt"])
    damaged[len(damaged) // 2] ^= 1
    hub.repositories["me/net"]["checkpoint.pt"] = bytes(damaged)
    assert command("extract", "--run", "hub:me/net", "--flops", "1G", "--quiet") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:me/absent", "no such repository, or one that this machine has no access to"),
        ("hub:me/robust@v9", "no revision 'v9'"),
        ("hub:me/empty", "the repository has no student.json"),
        ("hub:me/robust/x", "give hub:OWNER/NAME"),
        ("hub:", "give hub:OWNER/NAME"),
        ("hub:me/damaged", "student.safetensors is damaged"),
        ("hub:me/other", "not a student's card"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(hub: SimpleNamespace, student: Path, name: str, message: str) -> None:
    files = files_of(student)
    hub.repositories |= {"me/robust": files, "me/empty": {}, "me/other": {"student.json": b"<html>"}}
    hub.repositories["me/damaged"] = {**files, "student.safetensors": files["student.safetensors"][:-1] + b"x"}
    with pytest.raises(UserError) as caught:
        load_student(name)
    assert message in str(caught.value)
    assert name.partition("@")[0] in str(caught.value) or "cache" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert command("evaluate", name) == 2


def test_no_server(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(Stopped, match=r"^hub:me/robust: the hub cannot be reached \(") as caught:
        student_folder("hub:me/robust")
    assert "\n" not in str(caught.value)
    assert command("evaluate", "hub:me/robust") == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_nothing_is_asked_for_without_the_prefix(hub: SimpleNamespace, tiny: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"no student\.json there"):
        load_student("me/robust")
    assert TeacherConfig(source="me/robust").kind == TeacherConfig(source="hub:me/robust.pt").kind == "directory"
    assert hub.asked == []


def test_a_hub_reads_the_results_of_a_card(student: Path) -> None:
    """As the hub's own client reads them."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    card = read_card(student)
    values = yaml.safe_load(front_matter(card, "robust").split("---")[1])
    name, results = model_index_to_eval_results(values["model-index"])
    assert name == "robust"
    assert [(r.dataset_name, r.dataset_split, r.metric_name) for r in results] == [
        ("digits", "test", "clean accuracy"),
        ("digits", "test", "accuracy under pgd3"),
    ]
    accuracies = [card["clean_accuracy"], card["robust_accuracy"]]
    assert [r.metric_value for r in results] == pytest.approx(accuracies, abs=5e-5)
    assert json.loads(json.dumps(values)) == values
