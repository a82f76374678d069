"""Trackers show what metrics.jsonl says, once, and nothing that they do can harm a training or reach the network."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY

from proard import train
from proard.common.errors import Stopped, UserError
from proard.config import parse_config
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import read_metrics
from proard.runs.trackers import Tracker, replay, scalars, trackers
from proard.runs.trackers.__main__ import main
from proard.training import Trainer
from proard.training.interruption import Interrupted

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "trackers.md").read_text(encoding="utf-8")
INSTALLED = [name for name in ("tensorboard", "wandb", "mlflow") if importlib.util.find_spec(name)]
Curves = dict[str, list[tuple[int, float]]]
PHASES = [
    {"name": "teacher", "epochs": 2, "learning_rate": 0.1, "objective": {"name": "ce"}},
    {"name": "all", "epochs": 1, "learning_rate": 0.1, "objective": {"name": "sat"}, "elastic": ["all"]},
]
SHORT: dict[str, Any] = {**TINY, "phases": PHASES, "attack": {"name": "fgsm"}}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(package not in INSTALLED, reason=f"needs {package}, of the extra {package}")


def expected(rows: list[dict[str, Any]]) -> Curves:
    """What must be seen of the rows, written down once more."""
    curves: Curves = defaultdict(list)
    for row in rows:
        phase, step = row["phase"], row["step"]
        if row["kind"] == "epoch":
            names = ("loss", "clean", "robust", "learning_rate", "seconds", "images_per_second", "peak_memory_bytes")
            for name in (*names, "processor_seconds"):
                if row[name] is not None:
                    curves[f"{phase}/{name}"].append((step, row[name]))
        else:
            for name in ("robust", "seconds", "processor_seconds"):
                curves[f"{phase}/validation/{name}"].append((step, row[name]))
            for student, found in row["students"].items():
                curves[f"{phase}/validation/{student}/clean"].append((step, found["clean"]))
                curves[f"{phase}/validation/{student}/robust"].append((step, found["robust"]))
        for purpose, multiply_adds in row["compute"].items():
            prefix = phase if row["kind"] == "epoch" else f"{phase}/validation"
            curves[f"{prefix}/compute/{purpose}"].append((step, multiply_adds))
    return dict(curves)


def single(curves: Curves) -> Curves:
    """In the precision that TensorBoard keeps."""
    return {name: [(step, struct.unpack("f", struct.pack("f", v))[0]) for step, v in c] for name, c in curves.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The real ones


class Listener:
    """A proxy that answers nobody, and remembers who asked."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(200))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A run that was interrupted and resumed, with all trackers that are installed; who was asked meanwhile."""
    directory, home = tmp_path_factory.mktemp("tracked") / "run", tmp_path_factory.mktemp("home")
    before, connect, listener, asked = dict(os.environ), socket.socket.connect, Listener(), []

    def watched(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            asked.append(address)
        connect(self, address)

    stops, step = [8], Trainer._step

    def step_with_signal(self: Trainer, *batch: Any) -> None:
        if stops and self.position.step == stops[0]:
            os.kill(os.getpid(), signal.SIGTERM)
            stops.pop(0)
        step(self, *batch)

    for name in list(os.environ):
        if name.startswith(("WANDB", "MLFLOW")):
            del os.environ[name]
    # Whoever asks for a server elsewhere, in this process or in W&B's own, asks the listener for it.
    os.environ |= {"WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "5"}  # a key asks for nothing
    os.environ |= {"HOME": str(home), **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "https_proxy"), listener.address)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        patch.setattr(Trainer, "_step", step_with_signal)
        config = {**copy.deepcopy(SHORT), "trackers": INSTALLED}
        with pytest.raises(Interrupted):
            train(config, run=directory, quiet=True)
        train(run=directory, resume=True, quiet=True)
    rows = read_metrics(directory / "metrics.jsonl")
    yield SimpleNamespace(run=directory, rows=rows, curves=expected(rows), asked=asked, listener=listener)
    os.environ.clear()
    os.environ.update(before)
    listener.socket.close()


@needs("tensorboard")
def test_tensorboard(tracked: SimpleNamespace) -> None:
    assert read_tensorboard(tracked.run) == single(tracked.curves)
    assert len(list((tracked.run / "tensorboard").iterdir())) == 2  # a file for every process


def read_tensorboard(run: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


@needs("tensorboard")
def test_tensorboard_shows_a_row_once_even_if_it_came_twice(tracked: SimpleNamespace, tmp_path: Path) -> None:
    """A process was killed after it had logged a row, and before it had noted so."""
    run = Path(shutil.copytree(tracked.run, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "mlflow")))
    state = json.loads((run / "trackers.json").read_text())
    state["tensorboard"] = {"rows": 4, "state": {"step": tracked.rows[3]["step"]}}
    (run / "trackers.json").write_text(json.dumps(state))
    assert replay(run, "tensorboard") == len(tracked.rows) - 4
    assert read_tensorboard(run) == single(tracked.curves)


@needs("wandb")
def test_wandb_offline(tracked: SimpleNamespace) -> None:
    found: Curves = defaultdict(list)
    folders = sorted((tracked.run / "wandb").glob("*run-*/"))
    folders = [folder for folder in folders if not folder.is_symlink()]
    assert len(folders) == 2
    assert all(folder.name.startswith("offline-run-") for folder in folders)
    runs, codes, configs = set(), [], []
    for folder in folders:
        for record in wandb_records(folder):
            if record.WhichOneof("record_type") == "history":
                values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                for name, value in values.items():
                    if "/" in name:
                        found[name].append((values["_step"], value))
            elif record.WhichOneof("record_type") == "run":
                runs.add((record.run.project, record.run.run_id, record.run.display_name))
                configs.append({u.key: json.loads(u.value_json) for u in record.run.config.update})
            elif record.WhichOneof("record_type") == "exit":
                codes.append(record.exit.exit_code)
    assert dict(found) == tracked.curves
    assert [run[::2] for run in runs] == [("proard", "run")]  # one run, whose project and name are these
    assert codes == [1, 0]
    assert configs[0]["batch_size"] == TINY["batch_size"]


def wandb_records(folder: Path) -> Iterator[Any]:
    """Of a W&B transaction log: 7 bytes, then blocks of 32 KiB of records with a header of 7 bytes (LevelDB's log)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@needs("mlflow")
def test_mlflow(tracked: SimpleNamespace) -> None:
    from mlflow import MlflowClient

    client = MlflowClient((tracked.run / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("proard")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert {name: [(m.step, m.value) for m in history] for name, history in histories.items()} == tracked.curves
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["phases.1.elastic"] == "['all']"
    assert run.data.params["threat.eps"] == "0.1"


@pytest.mark.skipif(not INSTALLED, reason="needs one of the extras tensorboard, wandb, mlflow")
def test_nothing_reached_the_network_and_nothing_changed(tracked: SimpleNamespace, tmp_path: Path) -> None:
    assert tracked.asked == []
    assert tracked.listener.heard == []
    with socket.create_connection(tracked.listener.socket.getsockname()) as connection:  # it does hear
        connection.sendall(b"CONNECT elsewhere:443")
        connection.recv(1)
    assert tracked.listener.heard == [b"CONNECT elsewhere:443"]
    plain = train(copy.deepcopy(SHORT), run=tmp_path / "plain", quiet=True)
    runs = [load_checkpoint(run / "checkpoint.pt")["best"]["weights"] for run in (tracked.run, plain)]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@needs("mlflow")
def test_a_server_that_is_away_costs_one_line(
    trained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(trained_run, tmp_path, trackers=[{"name": "mlflow", "uri": "http://127.0.0.1:9"}])
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}.get(name, "0"))
    train(run=run, resume=True, quiet=True)
    errors = capfd.readouterr().err
    assert errors.startswith("tracker mlflow: failed (")
    assert errors.count("\n") == 1, errors
    with pytest.raises(Stopped, match=r"^tracker mlflow: .*127\.0\.0\.1"):
        replay(run, "mlflow")


# ---------------------------------------------------------------------------------------------------------------------
# What all have in common


@pytest.fixture
def recorder() -> Iterator[type[Recorder]]:
    trackers._entries["recorder"] = Recorder
    Recorder.events, Recorder.fails = [], ""
    yield Recorder
    del trackers._entries["recorder"]


class Recorder(Tracker):
    """Remembers what it was told, and fails on demand."""

    events: list[Any]
    fails: str

    def __init__(self, option: int = 1) -> None:
        self.option = option

    def start(self, run: Path, config: Any) -> None:
        self._happens("start", dict(self.state))
        self.state["starts"] = self.state.get("starts", 0) + 1

    def log(self, row: Any) -> None:
        self._happens("log", row)

    def finish(self, complete: bool) -> None:
        self._happens("finish", complete)

    def _happens(self, what: str, value: Any) -> None:
        self.events.append((what, value))
        if self.fails in (what, f"{what} {sum(event[0] == what for event in self.events)}"):
            raise OSError(28, "No space left on device\nand a second line")

    @classmethod
    def rows(cls) -> list[Any]:
        return [value for what, value in cls.events if what == "log"]


def copied(trained_run: Path, tmp_path: Path, **changes: Any) -> Path:
    """A finished run, as if its configuration had been another."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(values | changes))
    return run


def test_rows_are_those_of_the_file_and_known_only_when_safe(
    tiny: dict[str, Any], tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in a validation: an epoch's row is in the file, and will be written again."""
    tiny["phases"] = [{**phase, "epochs": 2} for phase in tiny["phases"][:1]]
    tiny["trackers"] = ["recorder"]
    validate = Trainer._validate

    def dies(self: Trainer, progress: Any) -> None:
        if self.position.epoch == 1:
            raise MemoryError
        validate(self, progress)

    monkeypatch.setattr(Trainer, "_validate", dies)
    with pytest.raises(MemoryError):
        train(tiny, run=tmp_path / "run", quiet=True)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert len(recorder.rows()) == 2
    monkeypatch.undo()
    train(run=tmp_path / "run", resume=True, quiet=True)
    assert recorder.rows() == read_metrics(tmp_path / "run" / "metrics.jsonl")
    others = [event for event in recorder.events if event[0] != "log"]
    assert others == [("start", {}), ("finish", False), ("start", {"starts": 1}), ("finish", True)]


@pytest.mark.parametrize("fails", ["start", "log 3", "finish"])
def test_a_failure_is_one_line_and_what_is_missing_is_logged_later(
    fails: str,
    tiny: dict[str, Any],
    trained_run: Path,
    tmp_path: Path,
    recorder: type[Recorder],
    capfd: pytest.CaptureFixture[str],
) -> None:
    recorder.fails = fails
    if fails == "log 3":
        tiny["phases"] = [{**tiny["phases"][0], "objective": {"name": "ce"}}]
        tiny["trackers"] = [{"name": "recorder", "option": 2}]
        run = train(tiny, run=tmp_path / "run", quiet=True)
        assert load_checkpoint(run / "checkpoint.pt")["finished"]
    else:
        run = train(run=copied(trained_run, tmp_path, trackers=["recorder"]), resume=True, quiet=True)
    errors = capfd.readouterr().err
    assert errors == (
        "tracker recorder: failed ([Errno 28] No space left on device), and is left out from here on; "
        f"'python -m proard.runs.trackers {run} recorder' logs the rest later\n"
    )
    rows = read_metrics(run / "metrics.jsonl")
    had = {"start": [], "log 3": rows[:3], "finish": rows}[fails]
    assert recorder.rows() == had
    recorder.events.clear()
    recorder.fails = fails.split()[0]
    with pytest.raises(Stopped, match=r"tracker recorder: .*No space left"):
        replay(run, "recorder")
    recorder.events.clear()
    recorder.fails = ""
    left = len(rows) - len(had) + (fails == "log 3")  # the row that failed is logged again
    assert replay(run, "recorder") == left
    assert recorder.rows() == rows[len(rows) - left :]
    assert replay(run, "recorder") == 0


def test_a_damaged_state_begins_anew(trained_run: Path, tmp_path: Path, recorder: type[Recorder]) -> None:
    run = copied(trained_run, tmp_path)
    rows = read_metrics(run / "metrics.jsonl")
    for text in ("{", "[]", '{"recorder": 3}', '{"recorder": {"rows": "x", "state": {}}}'):
        (run / "trackers.json").write_text(text)
        assert replay(run, "recorder") == len(rows)
    (run / "trackers.json").write_text('{"recorder": {"rows": 99, "state": {}}}')  # of a longer run in this place
    assert replay(run, "recorder") == 0


def test_mistakes_are_refused_before_anything_is_written(
    tiny: dict[str, Any], tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in INSTALLED else find(name, *a))
    wrong = {
        "wandb": r"trackers\.0: wandb needs the package 'wandb'; pip install 'proard\[wandb\]'",
        "mlflow": r"trackers\.0: mlflow needs the package 'mlflow'; pip install 'proard\[mlflow\]'",
        "tensorboard": r"trackers\.0: tensorboard needs .* pip install 'proard\[tensorboard\]'",
        "tensorbord": "trackers.0: unknown tracker 'tensorbord'; did you mean 'tensorboard'",
    }
    cases = [([name], message) for name, message in wrong.items() if name in INSTALLED or name == "tensorbord"]
    cases += [([{"name": "wandb", "mode": "onlin"}], r"trackers\.0: option 'mode' of tracker 'wandb' should be")]
    cases += [([{"name": "recorder", "optoin": 1}], "did you mean 'option'")]
    cases += [(["recorder", "recorder"], "trackers: names must differ, got recorder, recorder")]
    for names, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            train({**tiny, "trackers": names}, run=tmp_path / "run", quiet=True)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_module_replays(
    trained_run: Path, tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(trained_run, tmp_path)
    rows = len(read_metrics(run / "metrics.jsonl"))
    assert main([str(run), "recorder", "option=3"]) == 0
    assert capsys.readouterr().out == f"logged:  {rows} rows of {run}\n"
    for arguments in (["x"], [str(run), "recorder", "x"], ["nowhere", "recorder"], [str(run), "recorder", "option=x"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("proard: ")
    recorder.fails = "start"
    assert main([str(run), "recorder"]) == 1
    assert capsys.readouterr().err == "proard: tracker recorder: [Errno 28] No space left on device\n"


def test_unknown_numbers_are_left_out() -> None:
    row = {"kind": "epoch", "phase": "a", "epoch": 0, "step": 9, "loss": 1, "clean": None, "bins": [1], "text": "x"}
    assert scalars(row) == {"a/loss": 1.0}


def test_a_name_that_looks_like_a_number() -> None:
    config = parse_config({"data": {"name": "digits"}, "trackers": [{"name": "mlflow", "experiment": "2024/8"}]})
    assert parse_config(config.model_dump(mode="json")) == config
    tracker = trackers.build("mlflow", config.trackers[0].model_extra or {})
    assert tracker.experiment == "2024/8"  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------------
# The guide


def test_the_guide_names_every_tracker_and_its_configuration_is_valid() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| `pip", GUIDE, re.MULTILINE)) == set(trackers.names())
    for written in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL):
        config = parse_config({"data": {"name": "digits"}, **yaml.safe_load(written)})
        for chosen in config.trackers:
            trackers.build(chosen.name, chosen.model_extra or {})


def test_the_tracker_of_ones_own(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(trackers, "_entries", dict(trackers._entries))
    (tmp_path / "my_trackers.py").write_text(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0], encoding="utf-8")
    tiny |= {"imports": ["my_trackers"], "trackers": [{"name": "csv", "file": "numbers.csv"}]}
    tiny["phases"] = [{**tiny["phases"][0], "epochs": 1, "objective": {"name": "ce"}}]
    run = train(tiny, run=tmp_path / "run", quiet=True)
    assert capfd.readouterr().err == ""
    lines = [line.split(",") for line in (run / "numbers.csv").read_text().splitlines()]
    found: Curves = defaultdict(list)
    for step, name, value in lines:
        found[name].append((int(step), float(value)))
    assert found == expected(read_metrics(run / "metrics.jsonl"))
