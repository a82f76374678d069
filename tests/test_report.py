"""`proard report`: one HTML page that needs nothing else, says what the run's files say, and works in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_families import SMALL_FAMILIES

import proard.commands.report
import proard.data
import proard.report.attacked
from proard import evaluate, extract
from proard.commands.cli import main
from proard.commands.extract import Extractor
from proard.commands.report import write_report
from proard.commands.search import search
from proard.common.svg import in_words, stages, stages_svg
from proard.data import DataSplits
from proard.evaluation.accuracy import Accuracy
from proard.export.student_directory import FORMATS, read_card
from proard.report.attacked import RADII, Attacked
from proard.report.page import script_json, with_own_size
from proard.report.pictures import png
from proard.report.run_contents import COSTS, RunContents, best_within
from proard.runs.run import Run
from proard.supernet import SearchSpace, families
from proard.supernet.budgets import Budget, Limits

pytest.importorskip("plotly", reason="needs plotly, of the extra report")

Capture = pytest.CaptureFixture[str]
SECTIONS = ["front", "students", "training", "sampling", "images", "radii", "curves", "corruptions"]
SECTIONS += ["predictor", "latency", "energy", "setup"]
SEARCH: dict[str, Any] = {"labels": 10, "verify": 2, "population": 10, "generations": 3, "regressors": ("ridge",)}
HOSTILE = "</script><img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


class Page(HTMLParser):
    """What a page has: ids, addresses, text by element, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: dict[str, str] = {}
        self.styles = ""
        self.words: dict[str, str] = {}
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "link", "img", "br", "input", "rect"}:
            self.open.append(tag)
        if tag in {"section", "header", "footer"}:
            self._section = dict(attributes).get("id") or tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            name = next(a.get("id") or "page" for t, a in reversed(self.tags) if t == "script")
            self.scripts[name] = self.scripts.get(name, "") + data
        elif inside == "style":
            self.styles += data
        else:
            self.words[self._section] = self.words.get(self._section, "") + data


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def error_line(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert exit_code(*arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("proard: ")
    assert errors.count("\n") == 1, errors
    return errors


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was searched, with two different students and a comparison; its name is hostile. Not to be changed."""
    path = tmp_path_factory.mktemp("report") / "run <b onclick=1> & 'x'"
    shutil.copytree(trained_run, path, ignore=shutil.ignore_patterns("students"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))
        search(path, quiet=True, **SEARCH)
        costs = sorted(row["multiply_adds"] for row in json.loads((path / "front.json").read_text())["students"])
        extract([("flops", str(costs[0])), ("flops", str(costs[-1]))], run=path, quiet=True)
    evaluate(path, ["fgsm"], limit=20, curve=True, corruptions=True)
    comparison = {"budget": "flops-1", "multiply_adds": 10**6, "seconds_alone": 50.0, "kwh_alone": None}
    for name in ("extracted", "alone"):
        comparison |= {f"clean_accuracy_{name}": 0.9, f"robust_accuracy_{name}": 0.5}
    comparison |= {"robust_accuracy_difference": 0.0, "clean_accuracy_difference": 0.0}
    (path / "baseline.json").write_text(json.dumps({"comparisons": [comparison]}))
    return path


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about it, with class names that are hostile too."""
    original = proard.data.load_data

    def load(*given: Any) -> DataSplits:
        data = original(*given)
        return dataclasses.replace(data, class_names=(HOSTILE, *data.class_names[1:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proard.data.load_data", load)
        return write_report(run, tmp_path_factory.mktemp("page") / "page.html", quiet=True)


@pytest.fixture(scope="module")
def parsed(page: Path) -> Page:
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def front(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "front.json").read_text())["students"]


@pytest.fixture
def bare(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was trained, and no more; nothing is attacked."""
    monkeypatch.setattr(proard.report.attacked, "MOST_IMAGES", 8)
    monkeypatch.setattr(proard.report.attacked, "LOOKED_AT", 1)
    return Path(shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("students")))


# ---------------------------------------------------------------------------------------------------------------------
# The file


def test_every_section_is_there_and_has_its_data(parsed: Page) -> None:
    ids = [attributes["id"] for tag, attributes in parsed.tags if tag == "section"]
    assert ids == SECTIONS
    missing = [text for text in SECTIONS if "yet;" in parsed.words[text] and text != "latency"]
    assert not missing
    assert parsed.open == []
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]


def test_nothing_comes_from_elsewhere(parsed: Page) -> None:
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "url(" not in (attributes.get("style") or "")
    assert "url(" not in parsed.styles
    assert "@import" not in parsed.styles
    assert set(parsed.scripts) == {"data", "plotly", "page"}
    for name in ("data", "page"):
        assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|\bimport\(|WebSocket", parsed.scripts[name])
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_it_states_its_own_size(page: Path, parsed: Page) -> None:
    stated = next(attributes["value"] for tag, attributes in parsed.tags if attributes.get("id") == "size")
    size = page.stat().st_size
    assert stated == str(size)
    assert f"{size / 1e6:.1f} MB ({size:,} bytes)" in parsed.words["footer"]
    assert size < 4e6
    assert with_own_size(lambda size: f"{'x' * 96} {size}") == "x" * 96 + " 99"
    assert with_own_size(lambda size: f"{'x' * 97} {size}") == "x" * 97 + " 101"


def test_what_comes_from_the_run_is_inert(page: Path, parsed: Page, run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "<b onclick" not in text
    assert run.name in parsed.words["header"]
    assert json.loads(script_json({"a": HOSTILE})) == {"a": HOSTILE}
    assert "<" not in script_json({"a": HOSTILE})


def test_numbers_are_those_of_the_files(parsed: Page, run: Path, front: list[dict[str, Any]]) -> None:
    data = json.loads(parsed.scripts["data"])
    for cost in COSTS:
        for limit in sorted({row[cost] for row in front}):
            fitting = [index for index, row in enumerate(front) if row[cost] <= limit]
            best = max(fitting, key=lambda index: (front[index]["robust"], front[index]["clean"]))
            shown = data["students"][[place for least, place in data["steps"][cost] if least <= limit][-1]]
            assert shown["name"] == f"student {best + 1}"
            assert shown["costs"] == {name: front[best][name] for name in COSTS}
            assert (shown["clean"], shown["robust"]) == (front[best]["clean"], front[best]["robust"])
            assert shown["picture"].count('class="bar"') > 2
        assert data["ranges"][cost] == [min(row[cost] for row in front), max(row[cost] for row in front)]
    points = {(x, round(y, 6)) for trace in data["plots"]["front-multiply_adds"]["data"] for x, y in _points(trace)}
    hovers = {text for trace in data["plots"]["front-multiply_adds"]["data"] for text in trace["text"]}
    for row in front:
        assert (row["multiply_adds"], round(100 * row["robust"], 6)) in points
        assert any(all(line in text for line in in_words(row["architecture"])) for text in hovers)
    for folder in (run / "students").iterdir():
        card = read_card(folder)
        assert (card["multiply_adds"], round(100 * card["robust_accuracy"], 6)) in points
        low, high = card["evaluation"]["robust"][0]["interval_95"]
        interval = f"{100 * card['robust_accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
        assert interval in parsed.words["students"]
    assert "pgd3, 60 test images" in parsed.words["front"]
    assert "pgd2, 20 validation images" in parsed.words["front"]
    for folder in (run / "students").iterdir():
        kept = json.loads((folder / "curve.json").read_text())
        for kind, key in (("radii", "eps"), ("steps", "steps")):
            traces = [set(_points(trace)) for trace in data["plots"][f"curves-{kind}"]["data"]]
            assert {(row[key], 100 * row["accuracy"]) for row in kept[kind]} in traces
        kinds = json.loads((folder / "corruptions.json").read_text())["corruptions"]
        traces = [set(_points(trace)) for trace in data["plots"]["corruptions"]["data"]]
        assert {(name, 100 * kind["mean"]["accuracy"]) for name, kind in kinds.items()} in traces
        assert f"{folder.name}: accuracy " in parsed.words["curves"]
    losses = [row["loss"] for row in RunContents(Run(run)).metrics if row["kind"] == "epoch"]
    assert [y for trace in data["plots"]["training-0"]["data"] for _, y in _points(trace)] == losses
    for number in (0, 1):  # of the two phases in which something is elastic
        bars = data["plots"][f"sampling-{number}-0"]["data"]
        assert np.allclose(np.sum([trace["y"] for trace in bars], axis=0), 100)
    words = parsed.words["energy"]
    assert "By time one training is cheaper from" in words
    assert "the mean of the 1 that 'proard baseline' really made (flops-1)" in words
    assert "Energy is unknown, so only times are compared" in words
    commands = json.loads((run / "energy.json").read_text())["commands"]
    assert {entry["command"] for entry in commands} >= {"train", "search", "extract", "report"}
    extractions = [entry["seconds"] for entry in commands if entry["command"] == "extract"]
    once = sum(entry["seconds"] for entry in commands if entry["command"] in ("train", "search"))
    lines = {trace["name"]: list(_points(trace)) for trace in data["plots"]["savings"]["data"]}
    assert lines["each trained alone"][1] == (2, 100.0)
    assert lines["one training for all"][1][1] == pytest.approx(once + 2 * sum(extractions) / 2)
    assert "seed: 1" in parsed.words["setup"]


def _points(trace: dict[str, Any]) -> Iterator[tuple[float, float]]:
    yield from zip(trace["x"], trace["y"], strict=True)


def test_every_plot_has_words_and_a_table(parsed: Page) -> None:
    plots = [attributes for tag, attributes in parsed.tags if attributes.get("class") == "plot"]
    names = json.loads(parsed.scripts["data"])["plots"]
    assert {plot["data-plot"] for plot in plots} == set(names) - {"front-parameters"}
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 40 for plot in plots)
    assert sum(tag == "table" for tag, _ in parsed.tags) >= len(plots)
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")


def test_a_section_without_data_says_what_makes_it(
    bare: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(*given: Any) -> Any:
        raise proard.common.errors.UserError("data digits: not here")

    monkeypatch.setattr("proard.data.load_data", no_data)
    (bare / "energy.json").unlink()
    assert exit_code("report", "--run", str(bare), "--quiet") == 0
    output = capsys.readouterr().out.splitlines()
    path = bare / "report.html"
    assert output[0] == f"report:  {path} ({path.stat().st_size / 1e6:.1f} MB)"
    assert output[1].startswith("next:    ")
    words = Page(path.read_text()).words
    assert "proard search" in words["front"]
    assert "proard extract" in words["students"]
    assert words["images"].endswith("data digits: not here\n")
    assert words["radii"].endswith("data digits: not here\n")
    assert f"'proard evaluate {bare} --curve' makes it" in words["curves"]
    assert f"'proard evaluate {bare} --corruptions' makes it" in words["corruptions"]
    assert "proard search" in words["predictor"]
    assert "proard profile" in words["latency"]
    assert "proard train" in words["energy"]
    (bare / "metrics.jsonl").unlink()
    assert exit_code("report", "--run", str(bare), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(path), "bytes": path.stat().st_size}
    words = Page(path.read_text()).words
    assert "proard train" in words["training"]
    assert "proard train" in words["sampling"]


def test_without_a_front_it_chooses_among_what_is_known(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = RunContents(Run(bare))
    candidates, searched = contents.candidates
    assert not searched
    assert {student.name for student in candidates} == {
        "smallest, validated",
        "largest, validated",
        "random1, validated",
    }
    space = contents.trained.supernet.space
    assert candidates[0].costs["multiply_adds"] == space.cost(space.smallest()).multiply_adds
    assert [victim.name for victim in Attacked(contents).victims] == ["smallest of the space", "largest of the space"]


def test_a_front_of_other_weights_is_not_shown(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    values = json.loads((copy / "front.json").read_text())
    values["fingerprint"]["weights"] = "others"
    (copy / "front.json").write_text(json.dumps(values))
    with pytest.raises(proard.common.errors.UserError, match=r"of other weights.*proard search"):
        _ = RunContents(Run(copy)).front
    (copy / "front.json").write_text("{}")
    with pytest.raises(proard.common.errors.UserError, match="not a front"):
        _ = RunContents(Run(copy)).front
    card = next((copy / "students").glob("*/student.json"))
    card.write_text("{}")
    contents = RunContents(Run(copy))
    assert len(contents.students) == 1
    assert card.parent.name in contents.notes[0]


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_mistakes(bare: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in error_line(capsys, "report", "--run", "nowhere")
    assert "runs/" in error_line(capsys, "report")
    run = ["report", "--run", str(bare)]
    assert "no folder missing" in error_line(capsys, *run, "--out", "missing/page.html")
    assert "is a folder" in error_line(capsys, *run, "--out", str(tmp_path))
    monkeypatch.setattr(proard.commands.report, "find_spec", lambda name: None)
    message = error_line(capsys, *run)
    assert "'plotly'" in message
    assert "pip install 'proard[report]'" in message
    (bare / "checkpoint.pt").unlink()
    (bare / "metrics.jsonl").unlink()
    assert "never trained" in error_line(capsys, *run)
    assert not (bare / "report.html").exists()


def test_an_error_leaves_the_older_page(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "report.html").write_text("before")

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    for place in ("proard.report.page.page", "proard.common.files.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            if place.endswith("replace"):
                patch.setattr("proard.report.page.page", lambda *_: "after")
            with pytest.raises(ZeroDivisionError):
                write_report(bare, quiet=True)
        assert (bare / "report.html").read_text() == "before"
    assert not list(bare.glob(".tmp-*"))


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def test_the_choice_is_that_of_extract(run: Path, front: list[dict[str, Any]]) -> None:
    students, _ = RunContents(Run(run)).front
    extractor = Extractor(Run(run), quiet=True)
    for cost, option in (("multiply_adds", "flops"), ("parameters", "params")):
        best = best_within(students, cost)
        assert best
        for student in best:
            limits = Limits((Budget.parse(option, student.costs[cost]),))
            architecture, selection = extractor.select(limits, "robust")
            assert selection["method"] == "front"
            assert dict(architecture) == student.architecture
        limits = [row[cost] for row in front]
        chosen = [
            max((r for r in front if r[cost] <= limit), key=lambda r: (r["robust"], r["clean"])) for limit in limits
        ]
        assert {json.dumps(row["architecture"]) for row in chosen} == {json.dumps(s.architecture) for s in best}


@pytest.mark.parametrize("name", list(SMALL_FAMILIES))
def test_pictures_of_every_family(name: str) -> None:
    space: SearchSpace = families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
    for architecture in (space.smallest(), space.largest()):
        drawn = [bar for bars in stages(space.decisions, architecture).values() for bar in bars]
        svg = stages_svg(space.decisions, architecture)
        assert svg.count('class="ghost"') == len(drawn)
        assert svg.count('class="bar"') == sum(bar.present for bar in drawn)
        Page(svg)
        blocks = {d.name.rpartition(".")[0] for d in space.decisions if d.kind == "expand"}
        present = {place for place in blocks if any(key.startswith(f"{place}.") for key in architecture)}
        kinds = {d.kind for d in space.decisions}
        extra = sum(bar.present for bar in drawn) - len(present)  # the stem, where its width is chosen
        assert extra in ({0, 1, 2} if "width" in kinds else {0})
        if architecture == space.largest():
            assert all(bar.present and bar.width == bar.expand == 1 for bar in drawn)
        else:
            assert sum(bar.present for bar in drawn) < len(drawn)
            assert any(bar.width < 1 or bar.expand < 1 for bar in drawn)
        if "kernel" in kinds:
            sides = {"3"} if architecture == space.smallest() else {"7"}
            assert {note for bar in drawn if bar.present for note in bar.notes} == sides
    assert in_words({"stage1.block1.expand": 0.5, "stage1.block2.expand": 1}) == ["stage1: expand 0.5 1"]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_as_png(channels: int) -> None:
    import base64
    import io

    from PIL import Image

    image = torch.rand(channels, 5, 4)
    picture = Image.open(io.BytesIO(base64.b64decode(png(image).partition(",")[2])))
    assert picture.size == (4, 5)
    expected = (image if channels == 3 else image[:1]).mul(255).round().permute(1, 2, 0).squeeze(-1)
    assert np.array_equal(np.asarray(picture), expected.numpy())
    assert Image.open(io.BytesIO(base64.b64decode(png(torch.rand(3, 400, 300)).partition(",")[2]))).size == (96, 128)


def test_the_attack_is_that_of_the_run(run: Path) -> None:
    attacked = Attacked(RunContents(Run(run)))
    cards = sorted(((read_card(f), f.name) for f in (run / "students").iterdir()), key=lambda c: c[0]["multiply_adds"])
    # How well a student does depends on the processor's arithmetic, and with it which one each budget gets.
    differ = cards[0][0]["architecture"] != cards[-1][0]["architecture"]
    ends = [name for _, name in cards] if differ else ["smallest of the space", "largest of the space"]
    assert [victim.name for victim in attacked.victims] == ends
    shown = attacked.shown()
    assert len(shown) == 6
    for one in shown:
        for outcome in one.outcomes:
            assert float((outcome.adversarial - one.image).abs().max()) <= attacked.attack.threat.eps * (1 + 1e-5)
    for curve in attacked.curves():
        assert list(curve.accuracies) == [0.0, *(0.1 * factor for factor in RADII)]
        values = [accuracy.correct for accuracy in curve.accuracies.values()]
        assert values == sorted(values, reverse=True)
        assert curve.accuracies[0.0].total > 8
    curve = attacked.curves(seconds=0.0)[0]
    assert isinstance(curve.accuracies[0.0], Accuracy)
    assert curve.accuracies[0.0].total == 8  # the time was up after one batch
    assert all(parameter.grad is None for victim in attacked.victims for parameter in victim.network.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    """A headless Chromium that has opened the page."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        _open(driver, page)
        yield driver
    finally:
        driver.quit()


def _open(driver: Any, page: Path, width: int = 1000, theme: str = "light") -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page.as_uri())
    WebDriverWait(driver, 30).until(lambda d: d.execute_script("return document.documentElement.dataset.ready"))


def _type(driver: Any, text: str) -> None:
    driver.execute_script(
        "const field = document.getElementById('budget-text'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input'))",
        text,
    )


def _text(driver: Any, name: str) -> str:
    return driver.execute_script("return document.getElementById(arguments[0]).textContent", name)


def _chosen(driver: Any) -> str:
    return driver.execute_script("return document.getElementById('chosen').dataset.student")


def test_budgets_in_the_browser(browser: Any, run: Path, front: list[dict[str, Any]]) -> None:
    """The student shown is the one that comes out of the file by another way."""
    import shlex

    from selenium.webdriver.support.select import Select

    seen = set()
    for option, cost in (("flops", "multiply_adds"), ("params", "parameters")):
        Select(browser.find_element("id", "budget-cost")).select_by_value(cost)
        values = sorted(row[cost] for row in front)
        texts = [str(value) for value in values[::3]]
        texts += [f"{values[0] / 1e3 + 0.001:.3f}K", "1e9", f" {values[-1] / 1e6:.6f} M", "2.01e0M"]
        for text in texts:
            _type(browser, text)
            limit = Budget.parse(option, text).limit
            fitting = [index for index, row in enumerate(front) if row[cost] <= limit]
            best = max(fitting, key=lambda index: (front[index]["robust"], front[index]["clean"]))
            assert _chosen(browser) == f"student {best + 1}", (cost, text)
            command = shlex.split(_text(browser, "command"))
            assert command == ["proard", "extract", "--run", str(run), f"--{option}", "".join(text.split())]
            seen.add(best)
            assert browser.execute_script("return document.querySelectorAll('#chosen-picture svg .bar').length") > 2
        assert COSTS[cost] in browser.find_element("id", "front-plot").get_attribute("aria-label")
    assert len(seen) > 1
    Select(browser.find_element("id", "budget-cost")).select_by_value("multiply_adds")


def test_a_budget_that_nothing_fits(browser: Any, front: list[dict[str, Any]]) -> None:
    _type(browser, "1K")
    assert _chosen(browser) == ""
    assert "No student fits 1K" in _text(browser, "chosen-name")
    assert not browser.find_element("id", "command-row").is_displayed()
    for text in ("many", "-1M", "1X", "", "<img src=x>"):
        _type(browser, text)
        assert _chosen(browser) == ""
        assert "is not a number" in _text(browser, "chosen-name")
    assert browser.find_element("id", "budget-text").get_attribute("aria-invalid") == "true"


def test_the_slider_works_with_the_keyboard(browser: Any, front: list[dict[str, Any]]) -> None:
    from selenium.webdriver.common.keys import Keys

    slider, field = (browser.find_element("id", name) for name in ("budget-slider", "budget-text"))
    slider.send_keys(Keys.END)
    most = max(row["multiply_adds"] for row in front)
    assert Budget.parse("flops", field.get_property("value")).limit >= most
    slider.send_keys(Keys.HOME)
    assert _chosen(browser) == "student 1"  # the smallest fits its own cost, rounded up
    at_least = Budget.parse("flops", field.get_property("value")).limit
    slider.send_keys(Keys.ARROW_RIGHT * 40)
    assert Budget.parse("flops", field.get_property("value")).limit > at_least
    assert slider.get_attribute("aria-valuetext") == f"{field.get_property('value')} multiply-adds"
    browser.find_element("id", "copy").click()
    assert _text(browser, "copied") in {"copied", "", "select the line and copy it"}


def test_a_phone_and_the_dark(browser: Any, page: Path, parsed: Page) -> None:
    looks = {}
    for width, theme in ((1000, "light"), (390, "light"), (1000, "dark")):
        _open(browser, page, width, theme)
        wide = "return [document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth]"
        whole, body, window = browser.execute_script(wide)
        assert window == width
        assert max(whole, body) <= width
        plots = browser.execute_script(
            "return [...document.querySelectorAll('div.plot')].filter((e) => e.querySelector('.xtick')).length"
        )
        assert plots == sum(attributes.get("class") == "plot" for _, attributes in parsed.tags)
        looks[width, theme] = browser.execute_script(
            "return [getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#front-plot .xtick text')).fill]"
        )
    assert looks[1000, "light"] == looks[390, "light"] == ["rgb(255, 255, 255)", "rgb(28, 35, 48)"]
    assert looks[1000, "dark"] == ["rgb(20, 24, 31)", "rgb(228, 232, 238)"]


def test_print_is_light_and_complete(browser: Any, page: Path) -> None:
    _open(browser, page, 1000, "dark")
    state = (
        "return [document.querySelector('#front-plot .main-svg').getAttribute('width'),"
        " getComputedStyle(document.querySelector('#front-plot .xtick text')).fill,"
        " document.querySelectorAll('details:not([open])').length]"
    )
    before = browser.execute_script(state)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(state) == ["680", "rgb(28, 35, 48)", 0]
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(state) == before


def test_no_error_no_request_no_script_of_others(browser: Any, page: Path) -> None:
    """After all of the above."""
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in asked
    assert {address.split(":")[0] for address in asked - {page.as_uri()}} <= {"data", "blob"}


@pytest.mark.parametrize("key", ["phase", "epoch", "loss", "bins", "students", "robust", "compute"])
def test_a_damaged_row_costs_its_section_alone(bare: Path, key: str) -> None:
    metrics = bare / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(f'"{key}"', '"damaged"', 1))
    parsed = Page(write_report(bare, quiet=True).read_text())
    damaged = [name for name, words in parsed.words.items() if "a file of this run is damaged" in words]
    assert set(damaged) <= {"training", "sampling", "front"}
    assert "setup" in parsed.words


def test_config_values_are_inert(bare: Path) -> None:
    """A phase may have any name; it is in the page's data, a heading and a plot."""
    values = yaml.safe_load((bare / "config.yaml").read_text())
    old = values["phases"][1]["name"]
    values["phases"][1]["name"] = HOSTILE
    (bare / "config.yaml").write_text(yaml.safe_dump(values))
    lines = (bare / "metrics.jsonl").read_text().replace(f'"phase": "{old}"', f'"phase": {json.dumps(HOSTILE)}')
    (bare / "metrics.jsonl").write_text(lines)
    text = write_report(bare, quiet=True).read_text()
    assert HOSTILE not in text
    assert "<img src=x" not in text
    parsed = Page(text)
    assert HOSTILE in parsed.words["training"]
    assert HOSTILE in parsed.words["sampling"]
    assert HOSTILE in parsed.words["setup"]
