"""What hostile names of classes and files once broke, and a whole run over such classes."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.data.index.listing import list_images
from convlens.data.index.names import normalise_name
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import resolve_splits
from convlens.pages.render import render
from convlens.rundir.read import read_run
from support.fuzz_names import skeleton
from support.tiny import draw_folder

HOSTILE = (
    "<script>alert(1)</script>".replace("/", "\u2215"), '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}", "${oc.env:HOME}", "new\nline", "carriage\rreturn", "com,ma \"quo'te\"",
    "\U0001f408" * 63, "e\u0301", "\u00e9", "\u202eevil", " lead", "-dash", "CON", "x" * 255,
    "[bold]x[/bold]".replace("/", "\u2215"), "\x1b[31mred",
)  # fmt: skip
FAST = ["data.size=16", "model.filters=[4]", "model.head.hidden=[4]", "precision=32",
        "trainer=cpu", "training.epochs=1", "probes.count=17"]  # fmt: skip


@pytest.mark.slow
def test_whole_run_over_hostile_class_names(at, capsys):
    folder = draw_folder(at / "pics", dict.fromkeys(HOSTILE, 8), size=16)
    words = ["train", "data=image_folder", f"data.dir={folder}", *FAST, "run_dir=mine"]
    assert main(words) == 0
    run = read_run(at / "mine")
    names = sorted(set(map(normalise_name, HOSTILE)), key=os.fsencode)
    assert [key.removeprefix("val/f1/") for key in run.rows[0] if key.startswith("val/f1/")] == (
        names
    )
    assert not (at / "evil").exists() and os.listdir(at) == sorted(os.listdir(at), key=str)
    page = (at / "mine" / "report.html").read_text(encoding="utf-8")
    seen = skeleton(page)
    assert ("script", ()) not in [element for element in seen if "onerror" in str(element)]
    assert not [element for element in seen if any(name.startswith("on") for name in element[1])]
    assert "<script>alert" not in page and "<img src=x" not in page
    events = EventAccumulator(str(at / "mine" / "tensorboard"), size_guidance={"images": 0})
    tags = events.Reload().Tags()
    assert {f"val/f1/{name}" for name in names} <= set(tags["scalars"])
    assert len([tag for tag in tags["images"] if tag.startswith("grad_cam/")]) == 17
    checkpoint = "mine/checkpoints/best.ckpt"
    assert main(["eval", f"ckpt={checkpoint}"]) == 0
    with open(at / "mine/evaluation/best/predictions.csv", newline="", encoding="utf-8") as text:
        rows = list(csv.reader(text))
    assert rows[0][3:-1] == [f"probability/{name}" for name in names]
    assert {row[-1] for row in rows[1:]} == set(names)
    assert main(["explain", f"ckpt={checkpoint}", f"image={folder / HOSTILE[0]}",
                 "only=grad_cam", "run_dir=why"]) == 0  # fmt: skip
    assert "<script>alert" not in (at / "why" / "index.html").read_text(encoding="utf-8")
    assert main(["predict", f"ckpt={checkpoint}", f"images={folder}", "run_dir=said"]) == 0
    assert main(["report", "run=mine"]) == 0
    assert main(["runs", "dir=mine"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_carriage_return_in_a_name_survives_the_split_file(tmp_path):
    """The csv module writes it unquoted, and reads it as the end of the row."""
    folder = draw_folder(tmp_path / "pics", {"a\rb": 6, "c": 6})
    divided = resolve_splits(list_images(folder), validation=0.2, test=0.2, seed=0)
    write_split(tmp_path / "split.csv", divided)
    again = read_split(tmp_path / "split.csv", list_images(folder))
    assert np.array_equal(again.splits, divided.splits)


def test_class_that_is_not_utf8_is_refused(tmp_path):
    """Event files, tables and pages cannot name it: training broke after its first epoch."""
    folder = draw_folder(tmp_path / "pics", {os.fsdecode(b"\xff\xfe"): 3, "c": 3})
    with pytest.raises(UserError, match=r"udcff.*is not UTF-8.*rename it"):
        list_images(folder)


def test_page_shows_a_file_that_is_not_utf8():
    refused = [os.fsdecode(b"cannot read \xff.jpg")]
    page = render("explained.html", heading="x", network="y", version="1", left_out=[],
                  refused=refused, images=[], viewer=None)  # fmt: skip
    assert "cannot read \\udcff.jpg" in page
    page.encode("utf-8")


@pytest.mark.slow
def test_commands_print_a_file_that_is_not_utf8(at, capfd):
    import subprocess
    import sys

    pictures = draw_folder(at / "pics", {"a": 1})
    (pictures / "a" / "0.png").rename(pictures / "a" / os.fsdecode(b"\xff.png"))
    (pictures / "a" / os.fsdecode(b"\xfe.png")).write_bytes(b"none")
    for words in (["explain", f"image={pictures}", "only=grad_cam", "run_dir=why"],
                  ["predict", "ckpt=example", f"images={pictures}", "run_dir=said"]):  # fmt: skip
        command = [sys.executable, "-m", "convlens", *words]
        done = subprocess.run(command, capture_output=True, check=False,
                              env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert b"Traceback" not in done.stderr
    with open(at / "said" / "predictions.csv", newline="", encoding="utf-8",
              errors="surrogateescape") as text:  # fmt: skip
        rows = list(csv.reader(text))
    assert os.fsencode(rows[2][0]).endswith(b"\xff.png")
