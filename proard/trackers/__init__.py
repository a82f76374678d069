"""Trackers: what a training writes to metrics.jsonl, shown elsewhere too; never needed.

They follow the file: see `proard.trackers.following`.
"""

from proard.trackers.base import Tracker, scalars, trackers
from proard.trackers.following import Tracking, build, replay
from proard.trackers.mlflow import MLflow
from proard.trackers.tensorboard import TensorBoard
from proard.trackers.wandb import WeightsAndBiases

__all__ = ["MLflow", "TensorBoard", "Tracker", "Tracking", "WeightsAndBiases", "build", "replay", "scalars", "trackers"]
