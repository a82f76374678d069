"""`proard search`: label students, learn to predict the others, search, and measure the front that was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from proard.common.errors import UserError
from proard.common.files import RunLock
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run
from proard.runs.trained_run import TrainedRun
from proard.search.predictor import LEAST_LABELS
from proard.search.searcher import Searcher, SearchResult
from proard.supernet.budgets import Budget, Limits, budgets_of


def search(
    run: str | Path | None = None,
    *,
    labels: int | None = None,
    population: int | None = None,
    generations: int | None = None,
    verify: int | None = None,
    budgets: Budget | Sequence[Budget | tuple[str, str]] = (),
    regressors: Sequence[str] | None = None,
    quiet: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
    **named: str | float | None,
) -> SearchResult | None:
    """Measure students on validation images, learn to predict them, search, and measure what was found.

    Labels are kept as they come: a search that was interrupted goes on where it was. Under torchrun every process
    measures its share of them.

    Args:
        run: the run directory; default the newest in ``runs/``.
        labels: students to measure for the predictor, at least 8; this and the next three default to the
            configuration's section ``search``.
        population: of NSGA-II.
        generations: of NSGA-II.
        verify: students of the predicted front to measure.
        budgets: limits that NSGA-II keeps, all of them; labels come from the whole space.
        regressors: names to compare for the predictor; default all.
        quiet: no progress bar.
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.
        named: further budgets by their kind, such as ``flops="100M"``.

    Returns:
        The result; None in the processes of rank 1 and above.

    Raises:
        UserError: no run, wrong numbers or budgets, a run of one network, or a damaged label file.
    """
    limits = Limits(tuple(budgets_of(budgets, named)))
    least = {"labels": (labels, LEAST_LABELS), "population": (population, 2), "generations": (generations, 1)}
    for name, (value, bound) in {**least, "verify": (verify, 0)}.items():
        if value is not None and value < bound:
            raise UserError(f"--{name} {value}: must be at least {bound}")
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    directory = Run.find(run, data_root, data)
    config = directory.config()
    if config.mode == "student":
        raise UserError(f"run {directory.path}: has one network (mode student); there is nothing to search")
    with ExitStack() as stack:
        meter = EnergyMeter(config.energy, directory.energy, "search") if rank == 0 else None
        if rank == 0:
            stack.enter_context(RunLock(directory.path))
        searcher = Searcher(TrainedRun(directory), limits, rank, ranks, quiet)
        settings = searcher.trained.config.search
        if meter is not None:
            stack.enter_context(meter)
        chosen = searcher.label(settings.labels if labels is None else labels)
        if rank > 0:
            return None
        return searcher.search(
            chosen,
            population=population or settings.population,
            generations=generations or settings.generations,
            verify=settings.verify if verify is None else verify,
            regressors=regressors,
        )
