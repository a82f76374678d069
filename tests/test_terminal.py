"""What a person sees in a terminal, and what a script gets instead: tables, colour, progress, the plan, completion."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proard import train
from proard.attacks import PGD, ThreatModel
from proard.attacks.presets import attack_names
from proard.commands import options
from proard.commands.cli import main
from proard.common import progress, terminal
from proard.common.progress import Progress
from proard.common.units import how_many
from proard.config import packaged_configs, parse_config
from proard.data import load_data
from proard.evaluation.accuracy import measure, work
from proard.evaluation.transfer import diagnose
from proard.export.student_directory import FORMATS, load_student
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.search.selection import Prefer
from proard.supernet.families import families
from proard.training import Trainer, time_estimate
from proard.training.phases import Phase
from proard.training.progress import TrainingProgress
from proard.training.time_estimate import Estimate, seconds_left, seconds_per_step

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def standard_error_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on, which has to be inside of a test: ``capsys`` replaces the stream when a test begins."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("terminal") / "run"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


@pytest.fixture(scope="module")
def student(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student directory with a long name, in the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))
        assert command("extract", "--run", str(run), "--flops", "1G", "--quiet") == 0
    name = "a-student-of-" + "-".join(["many-words"] * 9)
    return (run / "students" / "flops-1G").rename(run / "students" / name)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def fits(text: str, *excepted: str) -> bool:
    """Whether every line does, but those that hold a path or a command, which stay in one piece."""
    return all(len(line) <= 80 for line in text.splitlines() if not any(part in line for part in excepted))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def test_no_table_is_too_wide_and_no_number_is_cut() -> None:
    rng = random.Random(0)
    for _ in range(300):
        columns = [f"attack{i}x{10 ** rng.randrange(9)} %" for i in range(rng.randrange(1, 12))]
        names = ["-".join(["student"] * rng.randrange(1, 16))[: rng.randrange(1, 120)] for _ in range(3)]
        rows = [
            {"student": name, **{c: f"{rng.random():.1f} (12.3-{rng.random():.{rng.randrange(9)}f})" for c in columns}}
            for name in names
        ]
        lines = terminal.table(rows)
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        blocks = text.split("\n\n")
        assert sum(block.count("student ") >= 1 for block in blocks) == len(blocks)
        for row in rows:
            assert all(value in text for value in list(row.values())[1:])
        heads = [block.splitlines()[0] for block in blocks]
        assert [name for head in heads for name in re.split(r"  +", head) if name != "student"] == columns


def test_the_parts_of_a_table_have_the_same_names_in_the_same_order() -> None:
    rows = [{"student": f"s{i}", **{f"column {c}": f"{10 * i + c} " + "x" * 18 for c in range(6)}} for i in range(3)]
    blocks = "\n".join(terminal.table(rows)).split("\n\n")
    assert [[line.split()[0] for line in block.splitlines()] for block in blocks] == 2 * [["student", "s0", "s1", "s2"]]
    narrow = terminal.table([{"student": "flops-1M", "images": "359"}, {"student": "x"}])
    assert narrow == ["student   images", "flops-1M  359", "x"]
    assert terminal.table([]) == []
    full = terminal.table([{"student": "s" * 14, "a": "x" * 26, "b": "y" * 36, "c": "z"}])
    assert full[1:] == [f"{'s' * 14} {'x' * 26} {'y' * 36} z"]  # closer together, rather than in two parts


def test_a_wide_terminal_has_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    assert len(terminal.table([{f"name{i}": "x" * 20 for i in range(9)}])) == 2
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # not a terminal: what the variable says does not matter
    assert max(map(len, terminal.table([{f"name{i}": "x" * 20 for i in range(9)}]))) <= 80


def test_the_table_in_the_readme_is_as_it_was() -> None:
    shown = re.search(r"```text\n(student {5}multiply.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    head, *lines = [re.split(r"  +", line) for line in shown[1].splitlines()]
    assert terminal.table([dict(zip(head, line, strict=True)) for line in lines]) == shown[1].splitlines()


def test_evaluations_of_any_names_and_attacks_fit(student: Path, capsys: Capture) -> None:
    attacks = ["fgsm", "pgd2", "pgd2x2", "apgd-ce3", "square10"]
    chosen = [part for name in attacks for part in ("--attack", name)]
    capsys.readouterr()
    assert command("evaluate", str(student), "--limit", "20", *chosen) == 0
    text, complaints = capsys.readouterr()
    assert complaints == ""
    assert fits(text, str(student))
    assert command("evaluate", str(student), "--limit", "20", *chosen, "--json") == 0
    (measured,) = json.loads(capsys.readouterr().out)
    for name in ["clean", *attacks]:
        low, high = measured[name]["interval_95"]
        assert f"{100 * measured[name]['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})" in text
    where, following = text.splitlines()[-2:]
    assert where == f"student: {student}"
    assert following == f"next:    proard evaluate {student} --attack autoattack"


def test_diagnostics_fit(student: Path) -> None:
    network = load_student(student)
    images, labels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    threat = ThreatModel("linf", 12345 / 123457)
    text = str(diagnose(network, network, [(images, labels)], threat, attack=PGD(threat, steps=100), radii=[], steps=1))
    assert fits(text)
    for word in ("student against teacher", "local linearity measure", "input gradients: cosine", "not a certificate"):
        assert word in text


def test_prose_is_folded_and_paths_are_not(capsys: Capture) -> None:
    path = "/a/long/path" * 9
    terminal.say(f"chosen:  {'word ' * 30}{path} end", fold=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == [f"         {path}"]
    assert lines[0].startswith("chosen:  word")
    assert all(line.startswith(" " * 9) for line in lines[1:])
    terminal.say(f"next:    proard extract --run {path} --flops 1M")
    assert capsys.readouterr().out == f"next:    proard extract --run {path} --flops 1M\n"


# ---------------------------------------------------------------------------------------------------------------------
# Colour


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),  # https://no-color.org: set and not empty
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals(
    stream: io.StringIO, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    terminal.say("next:    proard report")
    terminal.warn("careful")
    terminal.print_table([{"student": "x"}])
    assert command("evaluate", "nowhere") == 2
    text = stream.getvalue()
    assert ("\x1b[" in text) == coloured
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert plain.startswith("next:    proard report\ncareful\nstudent\nx\nproard: nowhere: ")


def test_a_real_terminal(tmp_path: Path) -> None:
    """In another process: bar with the time left, table, colour. It does not say how wide it is: 80 columns."""
    code = (
        "import sys, time; from proard.common.progress import Progress; from proard.common import terminal\n"
        "with Progress('labelling', 4, 'students') as bar:\n"
        "    for _ in range(4): time.sleep(0.15); bar.advance()\n"
        "terminal.print_table([{'student': 's', **{f'attack{i} %': '98.9 (97.2-99.6)' for i in range(7)}}])\n"
        "terminal.say('next:    proard report')"
    )
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment["TERM"] = "xterm"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert re.search(r"labelling +50%\|\S* *\| 2/4 students, 00:00 left", text)
    assert "\x1b[1mstudent" in text
    assert "\x1b[36m\x1b[1mnext:\x1b[0m    proard report" in text
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 80


# ---------------------------------------------------------------------------------------------------------------------
# Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still, and goes on when it is told to."""
    now = [1000.0]
    monkeypatch.setattr("proard.common.progress.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_without_a_terminal_there_is_a_line_now_and_then(
    clock: Callable[[float], None], capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    with progress.lines_on_standard_error(), Progress("labelling", 1000, "students") as task:
        for _ in range(1000):
            clock(3.0)
            task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "labelling: 0 %, about 50 min left"  # 4 of 1000, 3 seconds each
    assert lines[-1] == "labelling: 81 %, about 9 min 21 s left"
    assert 5 <= len(lines) <= 12
    with progress.lines_on_standard_error(), Progress("labelling", 3, shown=False) as task:
        clock(100.0)
        task.advance()
    with progress.lines_on_standard_error(), Progress("short", 3) as task:
        clock(9.0)
        task.advance(3)
    assert capsys.readouterr() == ("", "")


def test_from_python_nothing_is_printed(clock: Callable[[float], None], capsys: Capture) -> None:
    assert not logging.getLogger("proard.common.progress").handlers
    with Progress("labelling", 2) as task:
        clock(60.0)
        task.advance()
    assert capsys.readouterr() == ("", "")


def test_what_was_done_before_is_no_pace(clock: Callable[[float], None], capsys: Capture) -> None:
    with progress.lines_on_standard_error(), Progress("labelling", 100, done=90) as task:
        clock(20.0)
        task.advance()
    assert capsys.readouterr().err == "labelling: 91 %, about 3 min left\n"


def test_steps_of_different_phases_take_different_times(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    errors = standard_error_is_a_terminal(monkeypatch)
    now = [0.0]
    monkeypatch.setattr("proard.training.progress.time.monotonic", lambda: now[0])
    task = TrainingProgress([10, 10], quiet=True, pace=[1.0, 4.0])
    for _ in range(10):
        now[0] += 2.0
        task.step()
    assert task.left == pytest.approx(80.0)  # twice as slow as the pace: 10 steps of 8 seconds
    task.epoch("teacher 1/1: loss 1.0")
    for _ in range(10):
        now[0] += 8.0
        task.step()
    assert task.left == pytest.approx(0.0)
    task.epoch("students 1/1: loss 1.0")
    task.line("  validation: " + ", ".join(f"random{i} 99.9/88.8" for i in range(9)))
    text = capsys.readouterr().out
    assert text.startswith("teacher 1/1: loss 1.0, 1 min left\nstudents 1/1: loss 1.0\n  validation: ")
    assert fits(text)
    assert errors.getvalue() == ""
    resumed = TrainingProgress([10, 10], done=15, quiet=True, pace=[1.0, 4.0])
    now[0] += 6.0
    resumed.step()
    assert resumed.left == pytest.approx(24.0)


class Constant(nn.Module):
    """Says of every image what it is told, so that no attack changes it; and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.layer(images.flatten(1))


def test_measuring_reports_all_of_its_work_and_measures_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator)) for _ in range(3)
    ]
    torch.manual_seed(0)
    network = Constant()
    threat = ThreatModel("linf", 0.1)
    attacks = {attack.name: attack for attack in (PGD(threat, steps=3), PGD(threat, steps=7, restarts=2))}
    amounts: list[float] = []
    with_bar = measure(network, batches, attacks, progress=amounts.append)
    assert sum(amounts) == work(24, attacks.values()) == 24 * (1 + 4 + 15)
    assert min(amounts) > 0
    assert len(amounts) > 3 * 3 + 3  # also inside of an attack
    assert not network._forward_hooks
    assert with_bar == measure(network, batches, attacks)


@pytest.mark.parametrize("name", ["pgd20", "pgd50x5", "square200", "apgd-ce", "mifgsm", "fgsm", "cw"])
def test_what_an_attack_takes(name: str) -> None:
    """For images that withstand, the number that progress goes by is that of the passes, to a tenth or one."""
    from proard.attacks.presets import named_attack

    torch.manual_seed(0)
    network = Constant().eval()
    images = torch.rand(4, 1, 8, 8)
    labels = network(images).argmax(1)
    attack = named_attack(name, ThreatModel("linf", 1e-5))
    network.seen = 0
    attack.until_fooled(network, images, labels, torch.Generator().manual_seed(0))
    assert attack.passes == pytest.approx(network.seen / 4, rel=0.1, abs=1)


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def test_json_is_all_there_is_while_progress_is_shown(
    run: Path, student: Path, fast: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of commands that train, whose lines go elsewhere."""
    errors = standard_error_is_a_terminal(monkeypatch)
    monkeypatch.setattr("proard.search.predictor.names_for", lambda count: ("ridge",))
    monkeypatch.chdir(run.parent)
    seen = {}
    search = ["--labels", "8", "--verify", "2", "--population", "8", "--generations", "2"]
    for arguments in (
        ["search", "--run", str(run), *search],
        ["extract", "--run", str(run), "--flops", "1G", "--finetune", "1"],
        ["evaluate", str(student), "--limit", "20", "--attack", "fgsm"],
    ):
        errors.seek(0)
        errors.truncate()
        assert command(*arguments, "--json") == 0
        seen[arguments[0]] = errors.getvalue()
        output = capsys.readouterr().out
        assert json.loads(output)
        assert "\x1b" not in output
    assert re.search(r"labelling +\d+%\|.*/8 students, ", seen["search"])
    for task in ("fitting predictors", "searching", "verifying"):
        assert f"{task} " in seen["search"]
    assert "measuring flops-1G" in seen["extract"]
    assert "writing flops-1G" in seen["extract"]
    assert "finetune 1/1: loss" in seen["extract"]
    assert f"evaluating {student.name}" in seen["evaluate"]


def test_quiet_shows_no_bar(student: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = standard_error_is_a_terminal(monkeypatch)
    assert command("evaluate", str(student), "--limit", "20", "--attack", "fgsm", "--quiet") == 0
    assert errors.getvalue() == ""
    assert "fgsm %" in capsys.readouterr().out


def test_evaluate_from_python_is_silent(student: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from proard import evaluate

    errors = standard_error_is_a_terminal(monkeypatch)
    evaluate(student, ["fgsm"], limit=20)
    assert (errors.getvalue(), capsys.readouterr().out) == ("", "")


def test_every_command_ends_with_what_to_do_next(run: Path, fast: None, capsys: Capture) -> None:
    capsys.readouterr()
    assert command("extract", "--run", str(run), "--flops", "1G", "--quiet") == 0
    where, following = capsys.readouterr().out.splitlines()[-2:]
    assert where == f"written: {run / 'students'}"
    assert following.startswith("next:    proard evaluate ")
    assert command("evaluate", str(run), "--limit", "20", "--attack", "fgsm") == 0
    where, following = capsys.readouterr().out.splitlines()[-2:]
    several = len(list((run / "students").iterdir())) > 1
    assert where == (f"found:   {run / 'students'}" if several else f"student: {run / 'students' / 'flops-1G'}")
    assert command(*following.removeprefix("next:    proard ").split(), "--attack", "nothing") == 2
    assert "--attack nothing: unknown" in capsys.readouterr().err  # all before it was right


# ---------------------------------------------------------------------------------------------------------------------
# The plan of a training


@pytest.fixture
def trainer(tiny: dict[str, Any], tmp_path: Path) -> Trainer:
    config = parse_config(tiny)
    return Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)


def test_train_says_what_it_will_do(
    tiny: dict[str, Any], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny["supernet"]["widths"] = [8, 8]
    tiny["data"]["limit"] = 60
    Path("tiny.yaml").write_text(json.dumps(tiny))
    assert command("train", "--config", "tiny.yaml", "--run", "run") == 0
    text = capsys.readouterr().out
    plan, rest = text.split("\n\n", 1)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert rest.startswith("teacher 1/2: loss")
    config = parse_config(tiny)
    data, space = load_data(config.data), Trainer(config, load_data(config.data), Run("none")).supernet.space
    flat = " ".join(plan.split())
    counts = f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images"
    assert f"data: digits, {counts} of 1x8x8, 10 classes" in flat
    assert f"space: resnet, {space.size:,} students of " in flat
    assert "multiply-adds" in flat
    assert "1 multiply-add = 1 FLOP" in flat
    assert "teacher: the largest student, frozen before phase width" in flat
    assert "teacher, 2 epochs: trades, attack pgd2; the largest student" in flat
    assert "all, 1 epoch: rslad, attack pgd2; 4 students per step (sandwich); width, depth, expand vary" in flat
    assert re.search(r"runs on: cpu, float32, \d+ threads?", flat)
    assert re.search(r"time: about \d+ (s|min)", flat)
    assert command("train", "--resume", "--run", "run") == 0
    assert "time:    nothing is left to train" in capsys.readouterr().out


def test_the_plan_of_one_network(tiny: dict[str, Any], tmp_path: Path) -> None:
    from proard.training.plan import plan

    tiny |= {"mode": "student", "phases": [tiny["phases"][0]]}
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)
    text = "\n".join(plan(trainer))
    cost = trainer.supernet.space.cost(trainer.supernet.space.largest())
    assert f"network: resnet, {cost.multiply_adds / 1e3:.0f}K multiply-adds" in text
    assert "teacher: none" in text
    assert "one network" in text


def test_one_of_a_thing_is_not_many(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default sampler draws one student in a step; an epoch and a thread may be one as well."""
    from proard.training.plan import plan

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    tiny["phases"] = [{"name": "all", "epochs": 1, "learning_rate": 0.1, "elastic": ["all"], "recipe": "strong"}]
    config = parse_config(tiny)
    text = "\n".join(plan(Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)))
    assert [words for words in ("1 epoch: ", "1 student per step", "1 thread") if words not in text] == []
    assert not re.search(r"\b1 \w+s\b", text)
    assert (how_many(0, "image"), how_many(1200, "image")) == ("0 images", "1,200 images")


def test_the_estimate_leaves_the_training_as_it_was(tiny: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    """The same weights, to the bit, with and without it; with dropout, and random starts of attacks."""
    tiny["phases"] = tiny["phases"][:2]
    tiny["data"]["limit"] = 80
    for phase in tiny["phases"]:
        phase["epochs"] = 1
    states: list[Any] = []

    def look(trainer: Trainer) -> None:
        def everything() -> list[Any]:
            sampler = trainer.sampler.state_dict()
            generators = [torch.get_rng_state(), trainer.generator.get_state()]
            weights = [tensor.clone() for tensor in trainer.supernet.state_dict().values()]
            gradients = [p.grad.clone() for p in trainer.supernet.parameters() if p.grad is not None]
            return [generators + weights + gradients, sampler, random.getstate(), vars(trainer.position).copy()]

        before = everything()
        assert all(seconds > 0 for seconds in seconds_per_step(trainer))
        after = everything()
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert before[1:] == after[1:]
        states.append(after)

    paths = [
        train(tiny, run=tmp_path / str(look), quiet=True, before=before) for look, before in ((0, None), (1, look))
    ]
    assert len(states) == 1
    first, second = (load_checkpoint(path / "checkpoint.pt")["supernet"] for path in paths)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert capsys.readouterr().err == ""


def test_what_is_left(trainer: Trainer) -> None:
    pace = [1.0, 2.0, 4.0]
    per_epoch = len(trainer._batches())
    epochs = [phase.epochs for phase in trainer.config.phases]
    whole = per_epoch * sum(count * seconds for count, seconds in zip(epochs, pace, strict=True))
    assert seconds_left(trainer, pace) == whole
    trainer.position.step = per_epoch * (epochs[0] + 1) + 2
    assert seconds_left(trainer, pace) == per_epoch * (2 + 4) - 2 * 2.0
    trainer.position.step = sum(trainer.steps)
    assert seconds_left(trainer, pace) == 0


def test_the_estimate_adds_up_what_it_measures(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With passes and overheads that are known, each step is a sum that is known."""
    monkeypatch.setattr(Estimate, "_pass", lambda self, architecture: 0.001)
    passes = Estimate._passes
    counted: dict[str, float] = {}

    def known(self: Estimate, phase: Phase, crafted: bool) -> tuple[float, float]:
        counted[phase.settings.name] = passes(self, phase, crafted)[0]
        return counted[phase.settings.name], 0.1

    monkeypatch.setattr(Estimate, "_passes", known)
    calibrated = trainer.config.validation.calibration_images
    attacked = min(trainer.config.validation.images, len(trainer.data.validation))
    images = min(calibrated, len(trainer.data.train)) + attacked * (1 + trainer.validate.attack.passes)
    validation = 0.001 * images / trainer.batch_size / len(trainer._batches())
    teacher, width, everything = seconds_per_step(trainer)
    # Two attack steps there and back, and twice the loss: once on clean images, once on others, each with its gradient.
    assert set(counted.values()) == {2 * 2 + 2 * 3}
    assert teacher == pytest.approx(0.1 + 0.010 + validation)
    # Four students of two widths in two stages (all there are), and the teacher's answers; three are validated.
    assert width == pytest.approx(4 * (0.1 + 0.010) + 0.001 + 3 * validation)
    assert everything == pytest.approx(4 * (0.1 + 0.010) + 0.001 + 3 * validation)


@pytest.mark.parametrize(
    "slow", [{0}, {1}, {0, 1}, {2, 3}, {0, 1, 2, 3}, {2, 4}, {4, 5}, set(range(0, 40, 2))], ids=str
)
@pytest.mark.parametrize("each", [0.0005, 0.02, 0.2])
def test_what_else_runs_is_not_scaled_up(
    trainer: Trainer, each: float, slow: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pass that takes as long for each image, some calls take longer, as another program had the processor."""
    estimate = Estimate(trainer)
    estimate.batch_size = 64
    now, calls = [0.0], iter(range(1000))
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: now[0])

    def call(count: int) -> None:
        now[0] += 0.01 + each * count + (0.3 if next(calls) in slow else 0.0)

    assert estimate._scaled(call) == pytest.approx(0.01 + 64 * each, rel=0.05)
    estimate._ends = [(100, 30.0), (900, 1.0)]
    assert estimate._seconds(100) == estimate._seconds(500) == 1.0


def test_times_for_people() -> None:
    shown = {0.2: "1 s", 59.6: "1 min", 150: "2 min 30 s", 645: "11 min", 3599.7: "1 h", 11100: "3 h 5 min"}
    shown |= {86399.9: "1 day", 190000: "2 days 5 h"}
    assert {seconds: terminal.duration(seconds) for seconds in shown} == shown


# ---------------------------------------------------------------------------------------------------------------------
# Completion


def test_completed_names_are_those_that_are_accepted() -> None:
    from typing import get_args

    assert set(options.ATTACKS) == set(attack_names())
    assert set(options.FORMATS) == set(FORMATS)
    assert set(options.FAMILIES) <= set(families.names())
    assert {name for name in families.names() if families._entries[name].__module__.startswith("proard.")} == set(
        options.FAMILIES
    )
    assert get_args(Prefer) == options.PREFERENCES


def test_the_shell_completes_without_torch(tmp_path: Path) -> None:
    """Through the protocol of the shell's script; all in one process that imports as little as each would."""
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    for folder in ("runs/a", "runs/a/students/flops-1M", "runs/not"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").touch()
    (tmp_path / "runs/a/students/flops-1M/student.json").touch()
    expected = {
        "proard ex": ["extract"],
        "proard train --config qu": ["quickstart.yaml"],
        "proard train --config mi": ["mine.yaml"],
        "proard train --config ": [*packaged_configs(), "mine.yaml"],
        "proard train --set see": ["seed="],
        "proard train --set data.sp": ["data.split_seed="],
        "proard train --set dat": ["data."],
        "proard train --set supernet.family=mobilenetv": [f"supernet.family=mobilenetv{i}" for i in (2, 3)],
        "proard extract --format on": ["onnx", "onnx-int8"],
        "proard extract --prefer ": ["robust", "clean", "balanced"],
        "proard extract --run runs/": ["runs/a"],
        "proard evaluate runs/a/s": ["runs/a/students/flops-1M"],
        "proard evaluate x --attack autoa": ["autoattack", "autoattack-plus", "autoattack-rand"],
        "proard evaluate x --device c": ["cpu", "cuda"],
        "proard profile --dtype b": ["bfloat16"],
        "proard profile --runtime o": ["onnxruntime"],
        "proard configs tiny": ["tiny_imagenet.yaml"],
        "proard extract --out m": [],  # the shell's own file names
    }
    code = (
        "import contextlib, io, json, os, sys\nfrom proard.commands.cli import main\nfound = {}\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    os.environ |= {'_PROARD_COMPLETE': 'complete_bash', 'COMP_WORDS': line}\n"
        "    os.environ['COMP_CWORD'] = str(len(line.split(' ')) - 1)\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):\n"
        "        main([])\n"
        "    found[line] = printed.getvalue().split()\n"
        "os.environ['_PROARD_COMPLETE'] = 'source_bash'\n"
        "with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):\n"
        "    main([])\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'pandas', 'codecarbon', 'rich'} & set(sys.modules)\n"
        "print(json.dumps([found, sorted(heavy), printed.getvalue()]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(expected))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    found, heavy, script = json.loads(result.stdout)
    assert found == expected
    assert heavy == []
    assert "complete -o default -F _proard_completion proard" in script
