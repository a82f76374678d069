"""Energy and emissions of a run, kept in its ``energy.json``.

The figures come from codecarbon's offline tracker, without network access, and cover the whole machine: other programs
that run at the same time are counted too. Accounting never stops the work that it accounts for: when codecarbon is
missing or fails, the file has the seconds, ``null`` for the energy, and the reason.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from proard.common.errors import UserError, reason
from proard.common.files import write_json
from proard.config import EnergyConfig

WORLD_AVERAGE = 0.475
"""kg CO2eq per kWh of electricity: IEA, Global Energy & CO2 Status Report 2019, which codecarbon uses too."""

MAKING = ("train", "search", "extract")
"""Commands that make students."""

_log = logging.getLogger(__name__)


class EnergyMeter:
    """Measures the block it surrounds and adds it to ``energy.json``.

    The file accumulates over commands and resumed runs: ``kwh``, ``kg_co2eq``, ``seconds`` and ``how_measured`` for all
    of them (again under ``total``), ``commands`` with the figures of each, and ``method``. A total leaves out the
    commands whose energy is not known; ``how_measured`` names them.

    Attributes:
        record: the entry of this command in ``commands``; complete after the block, up to date after :meth:`save`.
    """

    def __init__(self, config: EnergyConfig, path: Path | None, command: str) -> None:
        """Begin to find out the hardware, in the background; nothing is measured yet.

        That takes a second or two, once in a process: so make the meter before the images are read, say.

        Args:
            config: whether to measure, and the country whose electricity is used.
            path: the file to write, or None to write nothing (the figures are in ``record``).
            command: what is measured, such as ``train``.

        Raises:
            UserError: codecarbon has no data for the country.
        """
        self.config = config
        self.path = path
        self.record: dict[str, Any] = {
            "command": command,
            "kwh": None,
            "kg_co2eq": None,
            "seconds": 0.0,
            "how_measured": "not measured",
            "carbon_intensity_kg_per_kwh": None,
            "country": config.country,
            "when": datetime.now(timezone.utc).isoformat(),
        }
        self._tracker: Any = None
        self._totals = _Totals()
        self._started = time.perf_counter()
        if config.enabled:
            if config.country is not None:
                _check_country(config.country)
            _look_at_hardware()

    def __enter__(self) -> EnergyMeter:
        """Start measuring, once the hardware is known."""
        if self.config.enabled:
            _look_at_hardware().join()
        self._started = time.perf_counter()
        if not self.config.enabled:
            self.record["how_measured"] = "not measured: energy.enabled is false"
            return self
        try:
            self._tracker = _start_tracker(self.config.country, self._totals)
            self.record["how_measured"] = _how_measured(self._tracker)
        except Exception as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop measuring and write the file, also after an error or Ctrl-C."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            try:
                self._totals.latest = None
                _stop_tracker(tracker)
                if self._totals.latest is None:
                    raise RuntimeError(f"codecarbon {_version()} failed before the end")
            except Exception as problem:
                self._give_up(problem)
        self._write()

    def save(self) -> None:
        """Write the figures up to now, so that a process that is killed later is accounted for until here."""
        if self._tracker is not None:
            self._tracker.flush()
        self._write()

    def _give_up(self, error: Exception) -> None:
        self._totals.latest = None
        self.record["how_measured"] = f"not measured: {reason(error)}"

    def _write(self) -> None:
        self.record["seconds"] = round(time.perf_counter() - self._started, 3)
        if (measured := self._totals.latest) is not None:
            kwh = float(measured.energy_consumed)
            kg = float(measured.emissions) if self.config.country else kwh * WORLD_AVERAGE
            self.record.update(kwh=kwh, kg_co2eq=kg, carbon_intensity_kg_per_kwh=kg / kwh if kwh else None)
        if self.path is None:
            return
        try:
            write_json(self.path, _summary([*_earlier(self.path, self.record), self.record]))
        except (OSError, ValueError) as error:
            _log.warning("%s: energy accounting could not be written (%s)", self.path, error)


# ---------------------------------------------------------------------------------------------------------------------
# codecarbon


class _Totals:
    """An output of codecarbon that keeps the latest totals, whatever asked for them."""

    def __init__(self) -> None:
        self.latest: Any = None

    def out(self, total: Any, delta: Any) -> None:
        self.latest = total

    live_out = out

    def task_out(self, data: Any, experiment_name: str) -> None:
        pass

    def exit(self) -> None:
        pass


def _import_codecarbon() -> Any:
    """The package, imported on first use (it brings pandas) and silenced: by itself it logs to the terminal at INFO."""
    codecarbon = import_module("codecarbon")
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return codecarbon


def _check_country(country: str) -> None:
    try:
        _import_codecarbon()
        known = import_module("codecarbon.input").DataSource().get_global_energy_mix_data()
    except Exception:  # __enter__ meets the same problem, and records it
        return
    if country not in known:
        raise UserError(
            f"energy.country: no electricity data for '{country}'; use a three-letter ISO 3166 code, as FRA or DEU"
        )


@cache
def _look_at_hardware() -> threading.Thread:
    """The thread in which codecarbon finds out about the machine, for all trackers of a process: by starting one."""

    def look() -> None:
        with suppress(Exception):  # the tracker that measures meets the same problem, and it is recorded
            _stop_tracker(_start_tracker(None, _Totals()))

    # No daemon: a process that ends early waits for it, rather than to stop a thread inside of an import.
    thread = threading.Thread(target=look, name="proard-energy")
    thread.start()
    return thread


def _start_tracker(country: str | None, totals: _Totals) -> Any:
    """A running tracker.

    Raises:
        Exception: codecarbon is missing, too old, or cannot measure here.
    """
    codecarbon = _import_codecarbon()
    # Everything that could reach the network is switched off by name: codecarbon otherwise takes what is left out from
    # ~/.codecarbon.config and CODECARBON_* variables, where an earlier project may have left a key or a server.
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country or "USA",  # it asks for one; without a country its emissions are not used
        region=None,
        cloud_provider=None,
        cloud_region=None,
        country_2letter_iso_code=None,
        electricitymaps_api_token=None,
        emissions_endpoint=None,
        output_methods=[],
        output_handlers=[totals],
        output_dir=".",
        force_carbon_intensity_g_co2e_kwh=None,
        api_call_interval=-1,
        tracking_mode="machine",
        measure_power_secs=15,
        log_level="critical",
        allow_multiple_runs=True,  # else its lock file stops a second run, and it takes over SIGINT and SIGTERM
    )
    tracker._electricitymaps_api_token = None  # the one setting that falls back to a second, deprecated name
    tracker.start()
    tracker.flush()
    if totals.latest is None:  # codecarbon swallows its own exceptions
        _stop_tracker(tracker)
        raise RuntimeError(f"codecarbon {_version()} did not start")
    return tracker


def _stop_tracker(tracker: Any) -> None:
    """Stop, and wait until no thread of the tracker is left."""
    schedulers = [s for s in (tracker._scheduler, tracker._scheduler_monitor_power) if s is not None]
    tracker.stop()
    # Its timers re-arm themselves, and one that fires during stop() would go on for ever.
    end = time.monotonic() + 10
    while time.monotonic() < end and (timers := [t for t in threading.enumerate() if _belongs(t, schedulers)]):
        for scheduler in schedulers:
            scheduler.stop()
        timers[0].join(timeout=0.1)


def _belongs(thread: threading.Thread, schedulers: list[Any]) -> bool:
    return isinstance(thread, threading.Timer) and getattr(thread.function, "__self__", None) in schedulers


def _version() -> str:
    try:
        return version("codecarbon")
    except PackageNotFoundError:
        return "(unknown version)"


_CPU_SOURCES = {
    "intel_rapl": "hardware counters (RAPL)",
    "windows_emi": "hardware counters (Windows energy meter)",
    "intel_power_gadget": "power readings (Intel Power Gadget)",
}


def _how_measured(tracker: Any) -> str:
    """Where each part's figure comes from, read off the tracker: a counter, or an estimate."""
    try:
        return "; ".join(_source(part) for part in tracker._hardware) or "unknown"
    except Exception:  # these are internals of codecarbon, which may look different in another version
        return "unknown"


def _source(part: Any) -> str:
    kind = type(part).__name__
    chip = getattr(part, "chip_part", kind)
    if kind == "CPU":
        mode = getattr(part, "_mode", "unknown")
        if mode in _CPU_SOURCES:
            return f"CPU: {_CPU_SOURCES[mode]}"
        power = f"an assumed maximum of {getattr(part, '_tdp', 0):g} W"
        return f"CPU: estimated from its load and {power}" if mode == "cpu_load" else f"CPU: estimated, half of {power}"
    if kind == "GPU":
        devices = part.devices.devices
        vendor = "NVML" if any("nvidia" in type(device).__name__.lower() for device in devices) else "AMD SMI"
        counted = all(getattr(device, "_has_counter", False) for device in devices)
        return f"GPU: {'hardware counters' if counted else 'power readings'} ({vendor})"
    if kind == "AppleSiliconChip":
        return f"{chip}: power readings (powermetrics)"
    if kind == "Raspberry":
        return f"{chip}: power readings (power-management chip)"
    return f"{kind}: estimated from its size"


# ---------------------------------------------------------------------------------------------------------------------
# energy.json


def _earlier(path: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The other commands in the file; a file that cannot be understood is put aside as ``<name>.damaged``."""
    try:
        commands = json.loads(path.read_text(encoding="utf-8"))["commands"]
        _summary(commands)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError):
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        return []
    return [c for c in commands if (c["command"], c["when"]) != (record["command"], record["when"])]


def known_energy(path: Path) -> dict[str, Any] | None:
    """What the students of a run took: kwh, kg_co2eq, seconds and how they were measured; None where it is not known.

    Sums over the `MAKING` commands of an ``energy.json``: comparisons, reports and further evaluations are left out.
    """
    try:
        commands = json.loads(path.read_text(encoding="utf-8"))["commands"]
        sums = _summary([command for command in commands if command["command"] in MAKING])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    known = {key: sums[key] for key in ("kwh", "kg_co2eq", "seconds", "how_measured")}
    return known if isinstance(known["kwh"], int | float) else None


def _summary(commands: list[dict[str, Any]]) -> dict[str, Any]:
    def total(key: str) -> float | None:
        known = [command[key] for command in commands if command[key] is not None]
        return sum(known) if known else None

    sums = {"kwh": total("kwh"), "kg_co2eq": total("kg_co2eq"), "seconds": total("seconds")}
    countries = dict.fromkeys(
        f"{command['country']} (codecarbon's data)"
        if command["country"]
        else f"world average, {WORLD_AVERAGE:g} kg/kWh; set energy.country"
        for command in commands
        if command["kwh"] is not None
    )
    method = (
        f"codecarbon {_version()}, offline; energy of the whole machine, other programs included; CO2eq from the "
        f"electricity mix of: {' | '.join(countries)}"
        if countries
        else "not measured"
    )
    ways = dict.fromkeys(
        command["how_measured"] if command["kwh"] is not None else f"{command['command']} {command['how_measured']}"
        for command in commands
    )
    return {**sums, "how_measured": " | ".join(ways), "method": method, "total": sums, "commands": commands}
