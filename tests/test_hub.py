"""Sharing through the Hugging Face Hub, against a server of our own on this machine."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proard.export.hub
from proard.common.errors import Stopped, UserError
from proard.common.files import sha256
from proard.export.hub import push, push_all, repository_name

pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Says what the Hub says to a commit of small files, and keeps what it was given."""
    record = SimpleNamespace(created=[], files={}, tokens=set(), refuse=None)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, values: Any, status: int = 200) -> None:
            body = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer({"id": "someone/robust", "sha": "0" * 40, "siblings": []})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            record.tokens.add(self.headers.get("Authorization"))
            if record.refuse:
                self.answer({"error": "You may not write here"}, record.refuse)
            elif self.path.endswith("/repos/create"):
                record.created.append(json.loads(body))
                name = record.created[-1]["name"]
                self.answer({"url": f"{record.url}/someone/{name}", "name": f"someone/{name}"})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self.answer({"files": answers})
            elif "/commit/" in self.path:
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        record.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self.answer({"commitUrl": f"{record.url}/c/1", "commitOid": "1" * 40, "hookOutput": ""})
            else:
                self.answer({})

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    record.url = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield record
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """What `read_card` accepts."""
    folder = tmp_path / "flops-1M"
    folder.mkdir()
    (folder / "student.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# A robust image classifier")
    card = {
        "format": 1,
        "family": "resnet",
        "family_options": {},
        "num_classes": 2,
        "input_shape": [1, 8, 8],
        "architecture": {},
        "classes": ["a", "b"],
        "data": {"name": "digits"},
        "evaluation": {
            "split": "test",
            "clean": {"correct": 9, "images": 10},
            "robust": [{"attack": {"name": "pgd20"}, "correct": 7, "images": 10}],
        },
        "files": {"student.safetensors": sha256(folder / "student.safetensors")},
    }
    (folder / "student.json").write_text(json.dumps(card))
    (folder / "diagnostics.json").write_text("{}")
    return folder


def test_a_student_arrives_whole_and_nothing_else_does(server: SimpleNamespace, student: Path) -> None:
    address = push(student, "robust", token="hf_secret", endpoint=server.url)
    assert address.endswith("someone/robust")
    assert [(entry["name"], entry.get("private", entry.get("visibility"))) for entry in server.created] in (
        [("robust", True)],
        [("robust", "private")],
    )
    front, readme = server.files.pop("README.md").decode().split("---\n\n")
    assert front.startswith("---\nlibrary_name: proard\n")
    assert readme == (student / "README.md").read_text()
    names = {"student.safetensors", "student.json"}
    assert server.files == {name: (student / name).read_bytes() for name in names}
    assert server.tokens == {"Bearer hf_secret"}


def test_several_students_have_a_repository_each(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[Path, str]] = []
    monkeypatch.setattr(proard.export.hub, "push", lambda path, name: pushed.append((path, name)))
    push_all([student], "me/robust")
    push_all([student, student.with_name("flops-2M")], "me/robust")
    assert [name for _, name in pushed] == ["me/robust", "me/robust-flops-1M", "me/robust-flops-2M"]


def test_a_server_that_refuses(server: SimpleNamespace, student: Path) -> None:
    server.refuse = 403
    with pytest.raises(Stopped) as caught:
        push(student, "robust", token="hf_secret", endpoint=server.url)
    message = str(caught.value)
    assert "\n" not in message
    assert str(student) in message
    assert "hf_secret" not in message


def test_a_damaged_student_is_not_shared(server: SimpleNamespace, student: Path) -> None:
    (student / "student.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="damaged"):
        push(student, "robust", token="hf_secret", endpoint=server.url)
    assert server.created == []


@pytest.mark.parametrize("target", ["robust", "hub:", "hub:a/b/c", "hub:../x", "hub: x", "s3:robust", "hub:a/.."])
def test_a_target_of_another_form(target: str) -> None:
    with pytest.raises(UserError, match="hub:OWNER/NAME"):
        repository_name(target)


def test_what_is_missing_shows_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"hub:me/robust: no access token; .*HF_TOKEN"):
        repository_name("hub:me/robust")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    assert repository_name("hub:me/robust") == "me/robust"
    monkeypatch.setattr(proard.export.hub, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'huggingface_hub'; pip install 'proard\[hub\]'"):
        repository_name("hub:me/robust")


def test_the_command_line_asks_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from proard.commands.cli import main

    monkeypatch.setattr(sys, "argv", ["proard"])
    with pytest.raises(SystemExit) as caught:
        main(["extract", "--flops", "1M", "--run", "nowhere", "--push", "s3:robust"])
    assert caught.value.code == 2
    assert "hub:OWNER/NAME" in capsys.readouterr().err
