from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from proard.common.errors import UserError
from proard.config import EnergyConfig
from proard.runs import energy
from proard.runs.energy import WORLD_AVERAGE, EnergyMeter


def measure(path: Path, config: EnergyConfig, command: str = "train") -> dict:
    with EnergyMeter(config, path, command):
        time.sleep(0.1)
    return json.loads(path.read_text())


def test_measures_and_accumulates(tmp_path, capfd):
    path = tmp_path / "energy.json"
    config = EnergyConfig(country="FRA")
    threads = set(threading.enumerate())
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    first = measure(path, config)
    both = measure(path, config, "extract")
    assert set(threading.enumerate()) <= threads
    assert (root.level, list(root.handlers)) == before
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["energy.json"]

    (train,) = first["commands"]
    assert train["command"] == "train"
    assert train["kwh"] > 0
    assert train["country"] == "FRA"
    assert 0.01 < train["carbon_intensity_kg_per_kwh"] < 0.2  # nuclear and water power
    assert train["kg_co2eq"] == pytest.approx(train["kwh"] * train["carbon_intensity_kg_per_kwh"])
    assert train["seconds"] >= 0.1
    assert "CPU: " in train["how_measured"]
    assert train["when"].endswith("+00:00")
    assert [command["command"] for command in both["commands"]] == ["train", "extract"]
    assert both["commands"][0] == train
    for key in ("kwh", "kg_co2eq", "seconds"):
        assert both[key] == both["total"][key] == pytest.approx(sum(command[key] for command in both["commands"]))
    assert "FRA" in both["method"]
    assert "codecarbon" in both["method"]


def test_without_a_country_the_world_average_is_used_and_stated(tmp_path):
    values = measure(tmp_path / "energy.json", EnergyConfig())
    assert values["kg_co2eq"] == pytest.approx(values["kwh"] * WORLD_AVERAGE)
    assert values["commands"][0]["country"] is None
    assert "world average, 0.475 kg/kWh; set energy.country" in values["method"]


def test_an_error_inside_is_passed_on_and_accounted_for(tmp_path):
    path = tmp_path / "energy.json"
    with pytest.raises(KeyboardInterrupt), EnergyMeter(EnergyConfig(), path, "train"):
        raise KeyboardInterrupt
    assert json.loads(path.read_text())["commands"][0]["kwh"] >= 0


def test_save_writes_the_figures_so_far(tmp_path):
    path = tmp_path / "energy.json"
    with EnergyMeter(EnergyConfig(), path, "train") as meter:
        time.sleep(0.1)
        meter.save()
        so_far = json.loads(path.read_text())
        assert 0 < so_far["kwh"] == meter.record["kwh"]
        time.sleep(0.1)
    end = json.loads(path.read_text())
    assert len(end["commands"]) == 1
    assert end["kwh"] > so_far["kwh"]


def test_disabled(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "import_module", None)  # nothing may be imported
    values = measure(tmp_path / "energy.json", EnergyConfig(enabled=False, country="FRA"))
    assert values["kwh"] is values["kg_co2eq"] is None
    assert values["seconds"] >= 0.1
    assert "energy.enabled is false" in values["how_measured"]


def test_an_unknown_country_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"energy\.country: no electricity data for 'GER'; .* DEU") as caught:
        EnergyMeter(EnergyConfig(country="GER"), tmp_path / "energy.json", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("country", [None, "FRA"])
def test_codecarbon_missing(tmp_path, monkeypatch, country):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    values = measure(tmp_path / "energy.json", EnergyConfig(country=country))
    assert values["kwh"] is None
    assert values["seconds"] >= 0.1
    assert "not measured" in values["how_measured"]
    assert "codecarbon" in values["how_measured"]


class FailingTracker:
    """Fails at one step. ``start`` swallows the error, as codecarbon's own methods do."""

    step = ""
    _scheduler = _scheduler_monitor_power = None
    _hardware = ()

    def __init__(self, output_handlers: list, **options: object) -> None:
        if self.step == "make":
            raise OSError("no hardware")
        self.totals = output_handlers[0]

    def start(self) -> None: ...

    def flush(self) -> None:
        if self.step != "start":
            self.totals.out(SimpleNamespace(energy_consumed=1.0, emissions=0.1), None)

    def stop(self) -> None:
        if self.step == "stop":
            raise RuntimeError("stop failed")


@pytest.mark.parametrize(
    ("step", "reason"),
    [("make", "no hardware"), ("start", "did not start"), ("stop", "stop failed"), ("end", "failed before the end")],
)
def test_codecarbon_failing(tmp_path, monkeypatch, step, reason):
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = type("Tracker", (FailingTracker,), {"step": step})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    values = measure(tmp_path / "energy.json", EnergyConfig())
    assert values["kwh"] is values["kg_co2eq"] is None
    assert reason in values["how_measured"]


def test_a_command_without_a_figure_is_named_beside_those_with_one(tmp_path, monkeypatch):
    path = tmp_path / "energy.json"
    measured = measure(path, EnergyConfig())
    both = measure(path, EnergyConfig(enabled=False), "extract")
    assert both["kwh"] == measured["kwh"]
    assert both["how_measured"] == f"{measured['how_measured']} | extract not measured: energy.enabled is false"


@pytest.mark.parametrize("text", ["{", "[]", '{"commands": [1]}', '{"commands": [{"command": "train"}]}', "\xff"])
def test_a_damaged_file_is_put_aside(tmp_path, text):
    path = tmp_path / "energy.json"
    path.write_text(text, encoding="latin-1")
    values = measure(path, EnergyConfig(enabled=False))
    assert len(values["commands"]) == 1
    assert (tmp_path / "energy.json.damaged").read_text(encoding="latin-1") == text


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    with EnergyMeter(EnergyConfig(enabled=False), tmp_path / "missing" / "energy.json", "train"):
        pass
    assert "could not be written" in caplog.text


def test_no_file():
    with EnergyMeter(EnergyConfig(enabled=False), None, "train") as meter:
        pass
    assert meter.record["seconds"] >= 0


def test_no_network_whatever_the_environment_says(tmp_path):
    """Settings that an earlier project left, in variables and a file, would send the figures to a server."""
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nemissions_endpoint=http://127.0.0.1:9/\nelectricitymaps_api_token=a\nlog_level=debug\n"
    )
    code = """
import socket, sys, time
from pathlib import Path

def refuse(*arguments, **options):
    Path("network").write_text(repr(arguments))
    raise OSError("no network")

socket.socket.connect = socket.getaddrinfo = refuse
from proard.config import EnergyConfig
from proard.runs.energy import EnergyMeter
with EnergyMeter(EnergyConfig(country="USA"), Path("energy.json"), "train") as meter:
    time.sleep(0.1)
assert meter.record["kwh"] > 0, meter.record
"""
    variables = {"CO2_SIGNAL_API_TOKEN": "a", "OUTPUT_METHODS": "api,prometheus,csv", "REGION": "california"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), **{f"CODECARBON_{key}": value for key, value in variables.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {".codecarbon.config", "energy.json"}


def part(kind: str, **values: object) -> object:
    return type(kind, (), values)()


@pytest.mark.parametrize(
    ("hardware", "text"),
    [
        (part("RAM"), "RAM: estimated from its size"),
        (part("CPU", _mode="intel_rapl"), "CPU: hardware counters (RAPL)"),
        (part("CPU", _mode="cpu_load", _tdp=65), "CPU: estimated from its load and an assumed maximum of 65 W"),
        (part("CPU", _mode="constant", _tdp=85), "CPU: estimated, half of an assumed maximum of 85 W"),
        (
            part("GPU", devices=SimpleNamespace(devices=[part("NvidiaGPUDevice", _has_counter=True)])),
            "GPU: hardware counters (NVML)",
        ),
        (
            part("GPU", devices=SimpleNamespace(devices=[part("NvidiaGPUDevice", _has_counter=False)])),
            "GPU: power readings (NVML)",
        ),
        (part("GPU"), "unknown"),
    ],
)
def test_how_measured_tells_counters_from_estimates(hardware, text):
    assert energy._how_measured(SimpleNamespace(_hardware=[hardware])) == text


def test_a_timer_that_fires_during_stop_does_not_go_on():
    class Scheduler:
        """Re-arms its timer once after it was stopped, as codecarbon's can."""

        def __init__(self) -> None:
            self.timer = threading.Timer(0, self.run)
            self.timer.start()

        def run(self) -> None:
            time.sleep(0.05)
            self.timer = threading.Timer(60, self.run)
            self.timer.start()

        def stop(self) -> None:
            self.timer.cancel()

    scheduler = Scheduler()
    energy._stop_tracker(SimpleNamespace(_scheduler=scheduler, _scheduler_monitor_power=None, stop=scheduler.stop))
    assert not scheduler.timer.is_alive()


def test_the_hardware_is_found_out_in_the_background_and_once(tmp_path, monkeypatch):
    started, found, done = threading.Event(), threading.Event(), []

    class Tracker(FailingTracker):
        def start(self) -> None:
            started.set()
            done.append(found.wait(10))

    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr(energy, "_look_at_hardware", cache(energy._look_at_hardware.__wrapped__))
    meters = [EnergyMeter(EnergyConfig(), tmp_path / "energy.json", "train") for _ in range(2)]
    assert started.wait(10)
    assert done == []  # nobody waits for it yet
    found.set()
    for meter in meters:
        with meter:
            assert done[0]
    assert done == [True] * 3  # for the hardware, and for both
    energy._look_at_hardware().join()
    EnergyMeter(EnergyConfig(enabled=False), None, "train")
    assert len(done) == 3


def test_a_process_that_ends_early_says_so_at_once_and_leaves_nothing(tmp_path):
    """A thread that is finding out the hardware must not outlive the interpreter."""
    code = "from proard.runs.energy import *; EnergyMeter(EnergyConfig(), None, 'x'); raise UserError('wrong')"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("UserError: wrong")
    assert list(tmp_path.iterdir()) == []
