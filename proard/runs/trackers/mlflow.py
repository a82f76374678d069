"""MLflow: files in the run directory, unless the user names a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proard.config import Config
from proard.runs.trackers.base import Tracker, scalars, trackers

PARAMETERS_PER_CALL = 100  # MLflow's limit
LENGTH_OF_PARAMETER = 500  # of older servers


@trackers.register("mlflow")
class MLflow(Tracker):
    """An MLflow run with the configuration as its parameters.

    Args:
        uri: where to; default MLFLOW_TRACKING_URI, else the folder ``RUN/mlflow``.
        experiment: default MLFLOW_EXPERIMENT_NAME, else ``proard``.
    """

    package = "mlflow"

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self.uri = uri
        self.experiment = experiment

    def start(self, run: Path, config: Config) -> None:
        """Open the run on the server or in the run directory, with the configuration as parameters if it is new."""
        place = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        defaults = {
            "MLFLOW_DISABLE_TELEMETRY": "true",  # read at import
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # else a server that is away holds the training up for minutes
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        }
        if place is None:
            defaults["MLFLOW_ALLOW_FILE_STORE"] = "true"  # which the small package mlflow-skinny has, unlike a database
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = place or (run / "mlflow").resolve().as_uri()
        self.client = MlflowClient(tracking_uri=place, registry_uri=place)
        if "run_id" in self.state:
            self.client.update_run(self.state["run_id"], status="RUNNING")
            return
        experiment = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "proard"
        known = self.client.get_experiment_by_name(experiment)
        number = self.client.create_experiment(experiment) if known is None else known.experiment_id
        created = self.client.create_run(number, run_name=run.resolve().name).info.run_id
        values = [Param(_name(n), str(v)[:LENGTH_OF_PARAMETER]) for n, v in flat(config.model_dump(mode="json"))]
        for begin in range(0, len(values), PARAMETERS_PER_CALL):
            self.client.log_batch(created, params=values[begin : begin + PARAMETERS_PER_CALL])
        self.state["run_id"] = created

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row at its step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, row["step"]) for name, value in scalars(row).items()]
        self.client.log_batch(self.state["run_id"], metrics=metrics)

    def finish(self, complete: bool) -> None:
        """Close the run, as finished or as interrupted."""
        self.client.set_terminated(self.state["run_id"], "FINISHED" if complete else "KILLED")


def flat(value: Any, at: str = "") -> list[tuple[str, Any]]:
    """Nested plain values by dotted names, such as ``phases.0.epochs``; a list of plain values is one."""
    if not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(e, dict) for e in value)):
        return [(at, value)]
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return [pair for name, entry in entries for pair in flat(entry, f"{at}.{name}" if at else str(name))]


def _name(name: str) -> str:
    """The name with an underscore for every character that MLflow refuses."""
    return re.sub(r"[^\w\-. :/]", "_", name)
