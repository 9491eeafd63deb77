"""The journal, and what is logged again after a kill, with a tracker that keeps a list."""

from __future__ import annotations

import csv
import io

import pytest
from convlens.callbacks.logging.journal import Journal
from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.to_mlflow import MlflowTracker
from convlens.callbacks.logging.tracker import Tracker, flatten
from convlens.callbacks.logging.trackers import Trackers


class Lists(Tracker):
    """Keeps everything in a list, of which a resumed run finds what ``kept`` says."""

    name, place, run_id = "lists", "here", "1"

    def __init__(self, kept=(), fails_at: str = ""):
        self.kept, self.fails_at, self.got, self.closed = list(kept), fails_at, [], None

    def find_logged(self):
        return [(tag, step) for tag, step, _ in self.kept]

    def log_numbers(self, values, step):
        for tag, value in values.items():
            if tag == self.fails_at:
                raise OSError("no space left\nsecond line")
            self.got.append((tag, step, value))

    def log_picture(self, tag, file, step):
        self.got.append((tag, step, file.read_bytes()))

    def log_text(self, tag, text, step):
        self.got.append((tag, step, text))

    def log_table(self, tag, table, step):
        self.got.append((tag, step, table.rows))

    def log_file(self, part, file):
        self.got.append((part, None, file.name))

    def close(self, finished):
        self.closed = finished


def opened(tmp_path, tracker, size=0) -> Trackers:
    return Trackers(tmp_path, Journal(tmp_path / "trackers" / "journal.jsonl", size), [tracker])


def log_epoch(trackers, step, home) -> None:
    picture = home / f"{step}.jpg"
    picture.write_bytes(bytes([step]))
    trackers.log_metrics({"train_step/loss": 0.5 * step}, step=10 * step)
    trackers.log_picture("grad_cam/00", picture, step)
    trackers.log_text("alarms/gap", "a line", step)
    trackers.log_table("tables/mistakes", Table(["image"], [["a.png"]]), step)
    trackers.log_metrics({"train/loss": 1.0 / step, "val/loss": float("nan")}, step=step)


def drop_nan(entries) -> list:
    return [(tag, step, "nan" if value != value else value) for tag, step, value in entries]


@pytest.mark.parametrize("reached", range(20))
def test_whatever_a_tracker_kept_it_ends_with_everything_once(reached, tmp_path):
    """The run is killed in its third epoch, when the tracker has written ``reached`` entries."""
    alone = Lists()
    whole = opened(tmp_path, alone)
    for step in (1, 2):
        log_epoch(whole, step, tmp_path)
    size = whole.measure()
    log_epoch(whole, 3, tmp_path)
    whole.log_text("alarms/gap", "the look at the end", 3)

    assert len(alone.got) == 19
    kept = alone.got[:reached]
    tracker = Lists(kept)
    resumed = opened(tmp_path, tracker, size)
    log_epoch(resumed, 3, tmp_path)
    resumed.log_text("alarms/gap", "the look at the end", 3)
    assert sorted(map(repr, drop_nan([*kept, *tracker.got]))) == sorted(
        map(repr, drop_nan(alone.got))
    )


def test_a_journal_is_cut_back_to_the_checkpoint_and_to_whole_lines(tmp_path):
    file = tmp_path / "journal.jsonl"
    journal = Journal(file, 0)
    for step in range(3):
        journal.append({"step": step, "numbers": {"ä": float("inf")}})
    journal.close()
    size = journal.size
    file.write_bytes(file.read_bytes() + b'{"step": 3')
    again = Journal(file, size + 5)
    assert [entry["step"] for entry in again.entries] == [0, 1, 2] and again.size == size
    again.append({"step": 3, "text": "a"})
    again.close()
    assert file.read_bytes().count(b"\n") == 4
    assert Journal(file, 0).entries == [] and file.read_bytes() == b""


def test_a_tracker_that_fails_is_reported_once_and_others_go_on(tmp_path, said):
    broken, whole = Lists(fails_at="train/loss"), Lists()
    journal = Journal(tmp_path / "journal.jsonl", 0)
    trackers = Trackers(tmp_path, journal, [broken, whole])
    for step in (1, 2):
        log_epoch(trackers, step, tmp_path)
    trackers.close(finished=True)
    assert said == ["lists is incomplete: no space left; training continues"]
    assert trackers.failures == ["lists is incomplete: no space left"]
    assert len(broken.got) == 4 and len(whole.got) == 12
    assert whole.closed is True and broken.closed is True


def test_an_unwritable_journal_is_reported_and_training_continues(tmp_path, said):
    journal = Journal(tmp_path / "journal.jsonl", 0)
    tracker = Lists()
    trackers = Trackers(tmp_path, journal, [tracker])
    journal.close()  # a write now raises
    trackers.log_metrics({"a": 1.0}, step=0)
    trackers.log_metrics({"a": 2.0}, step=1)
    assert tracker.got == [("a", 0, 1.0), ("a", 1, 2.0)]
    assert len(said) == 1 and "trackers/journal.jsonl is incomplete" in said[0]


def test_a_table_as_csv_and_as_markdown():
    table = Table(["image", "p"], [['a "b", c.png', 0.123456], ["x|y\nz", 1]])
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [
        ["image", "p"], ['a "b", c.png', "0.123456"], ["x|y\nz", "1"],
    ]  # fmt: skip
    assert table.to_markdown().splitlines() == [
        "| image | p |", "| --- | --- |", '| a "b", c.png | 0.1235 |', "| x\\|y z | 1 |",
    ]  # fmt: skip


def test_a_config_is_flat_with_lists_as_values():
    config = {"a": {"b": {"c": [1, {"d": 2}]}, "e": {}}, "f": None}
    assert flatten(config) == {"a.b.c": [1, {"d": 2}], "a.e": {}, "f": None}


NAMES = ["val/loss", "f1/cat", "f1/Käfer", "f1/a:b", "f1/a;b", "f1/..", "f1/a//b", "/x", "../x",
         "f1/.", "x" * 300, "f1/a~b", "f1/a+b"]  # fmt: skip


def test_names_that_mlflow_refuses_are_replaced_by_different_ones_that_it_accepts(tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    tracker = MlflowTracker(
        f"sqlite:///{tmp_path / 'a.db'}", artifacts=(tmp_path / "files").as_uri(),
        experiment="names", title="run", config={"seed": 0}, run_id=None,
    )  # fmt: skip
    tracker.log_numbers({name: float(n) for n, name in enumerate(NAMES)}, 3)
    file = tmp_path / "a.jpg"
    from PIL import Image

    Image.new("RGB", (4, 4)).save(file)
    for name in NAMES:
        tracker.log_picture(name, file, 5)
    found = list(tracker.find_logged())
    names = [tracker.rename(name) for name in NAMES]
    assert len(set(names)) == len(NAMES) and names[:2] == NAMES[:2]
    assert sorted(found) == sorted([(name, step) for name in names for step in (3, 5)])
