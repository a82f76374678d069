"""The label store: what is kept, what is left out, and what several or killed processes leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from proard.common.errors import UserError
from proard.search.labels import Fingerprint, LabelStore, MeasuredLabel, architectures_to_label, label_share
from proard.supernet import Architecture, SearchSpace, families
from proard.supernet.cost_bins import CostBins

SPACE = families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
SMALL = {"widths": (8,), "blocks": (1,), "depth_choices": (0,), "width_choices": (0.5, 1.0), "expand_choices": (1.0,)}
TINY: SearchSpace = families.build("resnet", {"num_classes": 2, "input_shape": (1, 8, 8), **SMALL}).space()
ONE = Fingerprint({"weights": "a", "attack": {"steps": 3}})
OTHER = Fingerprint({"weights": "b", "attack": {"steps": 3}})
ARCHITECTURES = architectures_to_label(SPACE, 12, seed=0)


def label(architecture: Architecture) -> MeasuredLabel:
    """Some numbers that depend on the architecture alone."""
    value = round(SPACE.cost(architecture).multiply_adds / SPACE.cost(SPACE.largest()).multiply_adds, 6)
    return MeasuredLabel(value, value / 2, 20, 0.125)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


# ---------------------------------------------------------------------------------------------------------------------
# Which architectures


def test_the_list_is_the_same_everywhere_and_a_longer_one_begins_with_it() -> None:
    assert architectures_to_label(SPACE, 12, seed=0) == ARCHITECTURES
    assert architectures_to_label(SPACE, 30, seed=0)[:12] == ARCHITECTURES
    assert architectures_to_label(SPACE, 12, seed=1)[2:] != ARCHITECTURES[2:]
    assert ARCHITECTURES[:2] == [SPACE.largest(), SPACE.smallest()]


def test_the_list_covers_all_costs_and_has_nothing_twice() -> None:
    found = architectures_to_label(SPACE, 66, seed=3)
    assert len(set(found)) == 66
    bins = CostBins(SPACE, 8)
    counts = Counter(bins.index(architecture) for architecture in found)
    assert min(counts.values()) >= 4
    assert len(counts) >= 7


def test_a_space_that_has_fewer_is_listed_completely() -> None:
    found = architectures_to_label(TINY, 50, seed=0)
    assert len(found) == len(set(found)) == TINY.size < 50


# ---------------------------------------------------------------------------------------------------------------------
# The files


def test_labels_come_back_and_the_file_is_only_appended_to(tmp_path: Path) -> None:
    store = LabelStore(tmp_path, ONE, SPACE)
    before = b""
    for architecture in ARCHITECTURES[:3]:
        store.add(architecture, label(architecture))
        now = (tmp_path / "labels.jsonl").read_bytes()
        assert now.startswith(before)
        before = now
    again = LabelStore(tmp_path, ONE, SPACE)
    assert again.labels == store.labels == {a: label(a) for a in ARCHITECTURES[:3]}
    again.add(ARCHITECTURES[3], label(ARCHITECTURES[3]))
    values = [json.loads(line) for line in lines(tmp_path / "labels.jsonl")]
    assert [set(v) == {"fingerprint", "of"} for v in values] == [True, False, False, False, False]
    assert values[0]["of"] == ONE.of


def test_labels_of_other_weights_are_left_out_and_kept(tmp_path: Path) -> None:
    LabelStore(tmp_path, ONE, SPACE).add(ARCHITECTURES[0], label(ARCHITECTURES[0]))
    store = LabelStore(tmp_path, OTHER, SPACE)
    assert (store.labels, store.left_out, store.changed) == ({}, 1, ["weights"])
    store.add(ARCHITECTURES[1], label(ARCHITECTURES[1]))
    assert set(LabelStore(tmp_path, ONE, SPACE).labels) == {ARCHITECTURES[0]}
    assert set(LabelStore(tmp_path, OTHER, SPACE).labels) == {ARCHITECTURES[1]}


def test_labels_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They had the accuracies of each half of the images, too."""
    store = LabelStore(tmp_path, ONE, SPACE)
    store.add(ARCHITECTURES[0], label(ARCHITECTURES[0]))
    before = lines(store.file)
    older = json.dumps({**json.loads(before[1]), "halves": [[0.1, 0.2], [0.3, 0.4]]})
    store.file.write_text(f"{before[0]}\n{older}\n")
    assert LabelStore(tmp_path, ONE, SPACE).labels == {ARCHITECTURES[0]: label(ARCHITECTURES[0])}


def test_an_unfinished_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    store = LabelStore(tmp_path, ONE, SPACE)
    for architecture in ARCHITECTURES[:2]:
        store.add(architecture, label(architecture))
    whole = file.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for cut in (start + 1, (start + len(whole)) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        again = LabelStore(tmp_path, ONE, SPACE)
        assert set(again.labels) == {ARCHITECTURES[0]}
        again.add(ARCHITECTURES[1], label(ARCHITECTURES[1]))
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[]",
        "12",
        "{}",
        '{"fingerprint": "x"}',
        "\x00\xff",
        "clean=7",
        "clean=NaN",
        'clean="high"',
        "images=[]",
        "robust=-0.1",
        "architecture=[]",
        'architecture={"nothing": 3}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "labels.jsonl"
    store = LabelStore(tmp_path, ONE, SPACE)
    for architecture in ARCHITECTURES[:3]:
        store.add(architecture, label(architecture))
    before = lines(file)
    if "=" in wrong:
        key, value = wrong.split("=")
        wrong = json.dumps({**json.loads(before[2]), key: "HERE"}).replace('"HERE"', value)
    file.write_text("\n".join([*before[:2], wrong, before[3]]) + "\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"labels.jsonl:3: not a label") as caught:
        LabelStore(tmp_path, ONE, SPACE)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Several processes


def work(folder: Path, rank: int, ranks: int, seconds: float) -> None:
    def slowly(architecture: Architecture) -> MeasuredLabel:
        time.sleep(seconds)
        return label(architecture)

    label_share(LabelStore(folder, ONE, SPACE, rank), ARCHITECTURES, slowly, rank, ranks)


def in_processes(*tasks: tuple[object, ...]) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("fork")
    processes: list[multiprocessing.process.BaseProcess] = [context.Process(target=work, args=task) for task in tasks]
    for process in processes:
        process.start()
    return processes


def test_two_processes_share_the_labels(tmp_path: Path) -> None:
    processes = in_processes((tmp_path, 0, 2, 0.05), (tmp_path, 1, 2, 0.05))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    store = LabelStore(tmp_path, ONE, SPACE)
    assert store.labels == {architecture: label(architecture) for architecture in ARCHITECTURES}
    files = [tmp_path / "labels.jsonl", tmp_path / "labels-1.jsonl"]
    counts = [sum('"clean"' in line for line in lines(file)) for file in files]
    assert min(counts) >= 4  # both worked, and at most the last were done twice
    assert sum(counts) <= len(ARCHITECTURES) + 2


def test_a_process_does_what_another_left_and_nothing_twice(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES[1:6:2]:
        LabelStore(tmp_path, ONE, SPACE, rank=1).add(architecture, label(architecture))
    measured = []

    def count(architecture: Architecture) -> MeasuredLabel:
        measured.append(architecture)
        return label(architecture)

    store = LabelStore(tmp_path, ONE, SPACE, rank=0)
    label_share(store, ARCHITECTURES, count, 0, 2)
    assert set(store.labels) == set(ARCHITECTURES)
    assert Counter(measured) == Counter(set(ARCHITECTURES) - set(ARCHITECTURES[1:6:2]))
    assert measured[:6] == ARCHITECTURES[::2]  # its own share first


def test_a_killed_process_loses_no_finished_label(tmp_path: Path) -> None:
    (process,) = in_processes((tmp_path, 0, 1, 0.1))
    file = tmp_path / "labels.jsonl"
    deadline = time.monotonic() + 60
    while not (file.exists() and len(lines(file)) >= 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    finished = sum(1 for line in lines(file) if '"clean"' in line)
    assert 3 <= finished < len(ARCHITECTURES)
    store = LabelStore(tmp_path, ONE, SPACE)
    assert len(store.labels) == finished
    measured = []

    def count(architecture: Architecture) -> MeasuredLabel:
        measured.append(architecture)
        return label(architecture)

    label_share(store, ARCHITECTURES, count)
    assert len(measured) == len(ARCHITECTURES) - finished
    assert LabelStore(tmp_path, ONE, SPACE).labels == {a: label(a) for a in ARCHITECTURES}
