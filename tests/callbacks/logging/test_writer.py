"""A thread that writes what looks find: the same bytes, the same order, the same reports."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
from convlens.callbacks import ExplanationCallback, Looks
from convlens.callbacks.logging import writing
from convlens.callbacks.logging.writer import ROOM, Writer
from convlens.callbacks.look import Look
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from convlens.cli.main import main
from convlens.experiment import train as runs
from support.lively import differences
from support.looks import FakeClock, Small, probes, train_small
from support.tiny import ALL, TINY

PICTURE = np.zeros((16, 16, 3), np.uint8)
# everything is drawn; how long the filters are is not tested here
WHOLE = [
    "looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}",
    "callbacks.filter_visuals.steps=2", "callbacks.filter_visuals.full_units=2",
]  # fmt: skip


def set_aside(monkeypatch, aside: bool | None) -> list[Writer]:
    """Let runs write with a thread, or without; return the writers that they open."""
    plain, opened = runs.build_trainer, []

    def build_trainer(*told):
        trainer, *rest = plain(*told)
        Looks.of(trainer).writes_aside = aside
        return trainer, *rest

    def note(self, *, threaded):
        opened.append(self)
        create(self, threaded=threaded)
        self.threaded = threaded

    create = Writer.__init__
    monkeypatch.setattr(runs, "build_trainer", build_trainer)
    monkeypatch.setattr(Writer, "__init__", note)
    return opened


def read_events(home: Path) -> list[tuple]:
    """Return (step, tag, value) of events in their order, but seconds and the run's folder."""
    events = []
    for file in sorted((home / "tensorboard").glob("events*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if not any(word in value.tag for word in ("seconds", "hparam", "config/")):
                    events.append((event.step, value.tag, value.tensor.SerializeToString()))
    return events


@pytest.mark.parametrize(
    "words",
    [["training.epochs=2"], pytest.param(["training.epochs=3", *ALL], marks=pytest.mark.slow)],
)
def test_files_and_events_are_the_same_bytes_in_the_same_order(tmp_path, monkeypatch, words):
    homes = {aside: tmp_path / str(aside) for aside in (False, True)}
    for aside, home in homes.items():
        with monkeypatch.context() as patch:
            opened = set_aside(patch, aside)
            assert main(["train", f"run_dir={home}", *TINY, *WHOLE, *words]) == 0
        assert [each.threaded for each in opened] == [aside] * len(opened) and len(opened) > 3
    assert not differences(homes[False], homes[True])  # weights, metrics, explanations
    plain, threaded = (read_events(home) for home in homes.values())
    assert len(plain) > 50 and any(tag.startswith("grad_cam") for _, tag, _ in plain)
    assert threaded == plain


def test_a_processor_writes_at_once_and_other_loggers_do_too(tmp_path, monkeypatch):
    """A logger that a user brings may know only the thread that made it."""
    opened = set_aside(monkeypatch, None)
    looks = Looks([Drawn(2)])
    module, on_gpu = Small(), type("OnGpu", (), {"device": type("D", (), {"type": "cuda"})})
    events, table = TensorBoardLogger(tmp_path), CSVLogger(tmp_path)
    for device, loggers, aside in (
        ("cpu", [events], False), ("cuda", [events], True), ("cuda", [], True),
        ("cuda", [events, table], False),
    ):  # fmt: skip
        monkeypatch.setattr(
            Small, "device", on_gpu.device if device == "cuda" else module.conv.weight.device
        )
        trainer = type("T", (), {"loggers": loggers, "is_global_zero": True, "callbacks": []})
        trainer.datamodule = None
        looks.look(trainer, module, [], 1)
        assert opened[-1].threaded is aside, (device, loggers)


class Drawn(ExplanationCallback):
    """Draws pictures, and remembers how many it was asked for."""

    def __init__(self, count: int):
        super().__init__()
        self.count, self.asked = count, 0

    def pictures(self, look: Look):
        for number in range(self.count):
            self.asked += 1
            yield f"drawn/{number}", PICTURE


class Other(Drawn):
    """Another one."""


@pytest.mark.parametrize("aside", [False, True])
def test_a_picture_that_finds_no_room_is_reported_once_and_the_run_continues(
    tmp_path, monkeypatch, caplog, aside
):
    """The first explanation fails, in one line; the next one fails for the same reason."""
    plain = writing.write_picture

    def write_picture(trainer, folder, tag, picture, clock, **more):
        if clock == 1 and tag.endswith("/1"):
            raise OSError(28, "No space left on device")
        plain(trainer, folder, tag, picture, clock, **more)

    monkeypatch.setattr(writing, "write_picture", write_picture)
    caplog.set_level("DEBUG", "convlens")
    first, second = Drawn(40), Other(40)
    for each in (first, second):
        each.attach(probes(), ("a", "b"), tmp_path / each.name, 0)
    looks = Looks([first, second])
    looks.writes_aside = aside
    train_small([looks], epochs=2)
    reason = "OSError: [Errno 28] No space left on device"
    assert looks.ledger.failures == {
        "Drawn": f"Drawn failed at epoch 1: {reason}",
        "Other": f"Other failed at epoch 1: {reason}",
    }
    lines = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert lines == [
        f"Drawn failed at epoch 1: {reason}; training continues",
        "Other failed at epoch 1 for the same reason as Drawn; training continues",
    ]
    traces = [each.exc_info for each in caplog.records if each.exc_info]
    assert len(traces) == 2 and all(trace[0] is OSError and trace[2] for trace in traces)
    for each in (first, second):
        files = [len([*(tmp_path / each.name / f"epoch_{n:03d}").rglob("*.jpg")]) for n in range(3)]
        assert files == [40, 1, 40], "what came before is there, what came after is not"
        assert each.asked < 120


def test_pictures_of_a_look_are_there_before_its_checkpoint(tmp_path, monkeypatch):
    slow_writes(monkeypatch, 0.01)
    drawn, seen = Drawn(12), []
    drawn.attach(probes(), ("a", "b"), tmp_path, 0)

    class Keeper(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            folder = tmp_path / f"epoch_{trainer.current_epoch + 1:03d}"
            seen.append((len([*folder.rglob("*.jpg")]), threading.active_count()))

    looks = Looks([drawn])
    looks.writes_aside, threads = True, threading.active_count()
    train_small([looks, Keeper()], epochs=2)
    assert seen == [(12, threads)] * 2


def slow_writes(monkeypatch, seconds: float) -> None:
    plain = writing.write_picture
    monkeypatch.setattr(
        writing, "write_picture", lambda *told, **more: time.sleep(seconds) or plain(*told, **more)
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_what_was_handed_over_is_written_however_the_look_ends(error):
    done = []
    with pytest.raises(error), Writer(threaded=True) as writer:
        for number in range(ROOM):
            writer.put(Drawn(1), lambda n=number: time.sleep(0.01) or done.append(n))
        raise error
    assert done == [*range(ROOM)] and not writer._thread.is_alive()


def test_work_is_done_in_order_in_another_thread_and_little_may_wait():
    gate, done, handed = threading.Event(), [], []
    each = Drawn(1)

    def hand_over():
        with Writer(threaded=True) as writer:
            for number in range(20):
                writer.put(each, lambda n=number: gate.wait() and done.append(n))
                handed.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and len(handed) <= ROOM + 1 and not done
    gate.set()
    thread.join()
    assert done == [*range(20)]


def test_time_for_what_waits_is_kept_and_time_waited_is_charged(tmp_path, monkeypatch):
    """Writing takes 0.5 s a picture here; what waits shortens the time left for the look."""
    clock, left = FakeClock(monkeypatch), []
    gate = threading.Semaphore(0)

    def write_picture(*told, **more):
        gate.acquire()
        clock.spend(0.5)

    monkeypatch.setattr(writing, "write_picture", write_picture)

    class Watchful(ExplanationCallback):
        def pictures(self, look: Look):
            look.pace.note("pass", 1, 0.0)
            yield "first", PICTURE
            gate.release()
            while look.get_backlog() or clock.now < began + 0.5:
                pass  # until the first is written, which shows what one takes
            left.append(look.seconds_left)
            yield "second", PICTURE
            left.append(look.seconds_left)
            yield "third", PICTURE
            left.append(look.seconds_left)
            gate.release(2)

    each = Watchful()
    each.attach(probes(), ("a", "b"), tmp_path, 0)
    looks = Looks([each])
    looks.writes_aside = True
    trainer = type("T", (), {"loggers": [], "is_global_zero": True, "callbacks": []})
    trainer.datamodule = None
    looks.ledger.share, looks.ledger.floor = 0.0, 3.0
    looks.ledger.begin_epoch()
    looks.ledger.end_epoch(0)
    began = clock.now
    looks.look(trainer, Small(), [each], 1)
    assert left == pytest.approx([2.5, 2.0, 1.5])
    (record,) = looks.ledger.looks
    assert record["spent"] == pytest.approx(1.5) == record["by_callback"]["Watchful"]
    assert looks.ledger.seconds_left("epoch") == pytest.approx(1.5)
