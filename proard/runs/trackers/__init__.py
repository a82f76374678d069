"""Trackers: what a training writes to metrics.jsonl, shown elsewhere too; never needed.

They follow the file: see `proard.runs.trackers.tracking`.
"""

from proard.runs.trackers.base import Tracker, scalars, trackers
from proard.runs.trackers.mlflow import MLflow
from proard.runs.trackers.tensorboard import TensorBoard
from proard.runs.trackers.tracking import Tracking, build, replay
from proard.runs.trackers.wandb import WeightsAndBiases

__all__ = ["MLflow", "TensorBoard", "Tracker", "Tracking", "WeightsAndBiases", "build", "replay", "scalars", "trackers"]
