"""One search of one run: labels, a predictor, NSGA-II, and a front that is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proard.common.progress import Progress
from proard.common.terminal import warn
from proard.runs.trained_run import TrainedRun
from proard.search.front import FILE, Front, write_front
from proard.search.genotypes import Genotypes, Matrix
from proard.search.labeller import Labeller
from proard.search.labels import LabelStore, MeasuredLabel, architectures_to_label, label_share
from proard.search.nsga2 import nsga2
from proard.search.predictor import LEAST_LABELS, TARGETS, Predictor, as_values, fits
from proard.search.selection import Label
from proard.supernet import Architecture
from proard.supernet.budgets import Limits

ROUNDS = 2  # of predicting and measuring: the second knows what was wrong with the first


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        path: of ``front.json``.
        front: all measured students.
        report: about labels, predictor and verification; as in ``front.json``.
        seconds_per_label: mean over all labels, or None where nothing was measured.
    """

    path: Path
    front: Front
    report: dict[str, Any]
    seconds_per_label: float | None

    def __repr__(self) -> str:
        return f"SearchResult({self.front!r})"

    def _repr_html_(self) -> str:
        """For notebooks: the front."""
        return self.front._repr_html_()


class Searcher:
    """One search of one run, within limits that NSGA-II keeps; this process is ``rank`` of the ``ranks`` that label."""

    def __init__(self, trained: TrainedRun, limits: Limits, rank: int = 0, ranks: int = 1, quiet: bool = False) -> None:
        self.trained, self.limits, self.rank, self.ranks, self.quiet = trained, limits, rank, ranks, quiet
        self.space = trained.supernet.space
        self.genotypes = Genotypes(self.space)
        limits.check(self.space.cost(self.space.smallest()))
        self.labeller = Labeller(trained)
        self.store = LabelStore(trained.run.path, self.labeller.fingerprint, self.space, rank)
        if self.store.left_out and rank == 0:
            changed = " or ".join(self.store.changed) or "setting"
            warn(f"labels: {self.store.left_out} in {trained.run.path} are of other {changed}; left out, and kept")

    def label(self, count: int) -> list[Architecture]:
        """Label architectures of the whole space, all that are not labelled yet; the list of all of them."""
        chosen = architectures_to_label(self.space, count, self.trained.config.seed)
        done = sum(architecture in self.store.labels for architecture in chosen)
        with self._progress("labelling", len(chosen), "students", done) as progress:
            label_share(self.store, chosen, self.labeller, self.rank, self.ranks, progress.advance)
        return chosen

    def search(
        self,
        chosen: Sequence[Architecture],
        *,
        population: int,
        generations: int,
        verify: int,
        regressors: Sequence[str] | None = None,
    ) -> SearchResult:
        """Fit the predictor, search, measure the best, and write the front.

        What is predicted depends on these labels and on nothing else that is in the store, so that an interrupted
        search ends as it would have; the front has everything that was measured.
        """
        known = {architecture: self.store.labels[architecture] for architecture in chosen}
        report: dict[str, Any] = {"labels": len(known), "space": self.space.size}
        if len(known) < self.space.size and len(known) >= LEAST_LABELS:
            predictor = self._predictor(known, regressors)
            report |= _described(predictor)
            verified: list[tuple[Any, MeasuredLabel]] = []
            for left in range(ROUNDS if verify else 0, 0, -1):
                if verified:
                    predictor = self._predictor(known, report["regressors"])
                with self._progress("searching", generations, "generations") as progress:
                    found = nsga2(
                        self.genotypes,
                        predictor,
                        self.limits,
                        population=population,
                        generations=generations,
                        seed=self.trained.config.seed + left,
                        start=self.genotypes.encode(list(known)),
                        progress=progress.advance,
                    )
                promising = self._promising(predictor, found, known, (verify - len(verified)) // left)
                with self._progress("verifying", len(promising), "students") as progress:
                    for architecture, guess in promising:
                        known[architecture] = self._measured(architecture)
                        verified.append((guess, known[architecture]))
                        progress.advance()
            report["verified"] = _verified(verified)
        front = write_front(self.trained.run.path, self.labeller.fingerprint, self.space, self.store.labels, report)
        seconds = [label.seconds for label in self.store.labels.values()]
        mean = sum(seconds) / len(seconds) if seconds else None
        return SearchResult(self.trained.run.path / FILE, front, report, mean)

    def _measured(self, architecture: Architecture) -> MeasuredLabel:
        if architecture not in self.store.labels:
            self.store.add(architecture, self.labeller(architecture))
        return self.store.labels[architecture]

    def _predictor(self, known: Mapping[Architecture, Label], regressors: Sequence[str] | None) -> Predictor:
        rows, values = self.genotypes.encode(list(known)), as_values(list(known.values()))
        with self._progress("fitting predictors", fits(len(known), regressors), "fits") as progress:
            return Predictor(self.genotypes, rows, values, regressors, progress.advance)

    def _promising(
        self, predictor: Predictor, found: Matrix, known: Mapping[Architecture, Label], count: int
    ) -> list[tuple[Architecture, Any]]:
        """Architectures of a predicted front that are not labelled yet, and what is predicted for them."""
        fresh = found[[architecture not in known for architecture in self.genotypes.decode(found)]]
        if min(count, len(fresh)) == 0:
            return []
        multiply_adds = self.genotypes.cost(fresh, "multiply_adds")
        picked = best_of_ranges(fresh, predictor(fresh), multiply_adds, min(count, len(fresh)))
        return list(zip(self.genotypes.decode(picked), predictor(picked), strict=True))

    def _progress(self, what: str, total: int, unit: str, done: int = 0) -> Progress:
        return Progress(what, total, unit, done=done, quiet=self.quiet, shown=self.rank == 0)


def best_of_ranges(matrix: Matrix, predicted: Any, multiply_adds: Any, count: int) -> Matrix:
    """Of a predicted front, the best students of ``count`` ranges of multiply-adds.

    In every other range that is the one of the highest robust accuracy, else of the highest sum of both.

    Args:
        matrix: rows (N, decisions).
        predicted: accuracies (N, 2).
        multiply_adds: (N,).
        count: at most N.
    """
    chosen = []
    for place, members in enumerate(np.array_split(np.argsort(multiply_adds, kind="stable"), max(count, 1))):
        clean, robust = predicted[members].T
        score = robust + 1e-6 * clean if place % 2 == 0 else robust + clean
        if len(members):
            chosen.append(members[int(np.argmax(score))])
    return matrix[np.array(chosen[:count], dtype=np.int64)]


def _described(predictor: Predictor) -> dict[str, Any]:
    """How each regressor did on labels that it had not seen, and which ones predict."""
    return {
        "regressors": list(dict.fromkeys(predictor.chosen.values())),
        "predictor": {
            target: {
                "chosen": predictor.chosen[target],
                "compared": {name: asdict(result) for name, result in predictor.compared[target].items()},
            }
            for target in TARGETS
        },
    }


def _verified(pairs: Sequence[tuple[Any, MeasuredLabel]]) -> dict[str, Any]:
    """How the predictions of the best compare with their measurements; the best are the most flattered."""
    if not pairs:
        return {"students": 0}
    difference = np.array([guess for guess, _ in pairs]) - as_values([label for _, label in pairs])
    return {
        "students": len(pairs),
        **{f"{t}_error": float(np.abs(difference[:, i]).mean()) for i, t in enumerate(TARGETS)},
        **{f"{t}_bias": float(difference[:, i].mean()) for i, t in enumerate(TARGETS)},
    }
