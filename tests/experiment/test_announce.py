"""What a run says: each fact once, in a line of its own, the most useful first."""

from __future__ import annotations

import pytest

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.experiment.announce import describe_data, describe_phases, describe_residence
from convlens.experiment.assemble import assemble
from support.tiny import TINY, TWO_UNFREEZES, draw_folder

LABELS = ("data", "network", "training", "precision", "images", "run folder")
LABELS += ("epoch 1/2", "epoch 2/2")


def phases(*words: str) -> dict[str, str]:
    return dict(describe_phases(assemble(compose([*TINY, *TWO_UNFREEZES, *words]))))


def test_a_run_says_each_fact_once(tmp_path, capsys):
    words = [*TINY, "training.epochs=2", "looking.seconds=0", "callbacks.budget=0.0"]
    # only the looks between lack time, however busy the machine is
    words += ["looking.first_seconds=1000", "looking.last_seconds=1000"]
    words += ["callbacks.filter_visuals.steps=2", "callbacks.filter_visuals.full_units=2"]
    words += ["callbacks.occlusion_maps=null"]  # draws nothing before training, and says so
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[: len(label)] for line, label in zip(lines, LABELS, strict=False)] == [*LABELS]
    assert lines[0] == "data       shapes: 60 images (44 train, 8 validation, 8 test), 5 classes"
    assert lines[1].startswith("network    scratch, 16×16 px, ")
    assert lines[1].endswith(" parameters, random weights")
    assert lines[2] == "training   epochs 1–2: all parameters, augmented"
    assert lines[3] == "precision  32 on CPU"
    assert lines[4] == "images     0.0 MB in the cache on the disk"
    assert lines[5] == f"run folder {tmp_path}/run"
    assert lines[-1].startswith("left out ") and "raise looking.seconds" in lines[-1]
    (first,) = [line for line in lines if line.startswith("look first at")]
    assert first.endswith("run/report.html")
    said = [line for line in lines if not line.startswith(("┃", "│"))]
    assert len(set(said)) == len(said)
    log = (tmp_path / "run" / "train.log").read_text()
    assert all(log.count(line) == 1 for line in lines[: len(LABELS)])
    assert log.count("GPU available") == 1 and "looking took" in log


def test_phases_are_listed_with_those_that_are_not_reached():
    assert phases() == {
        "phase 1": "epochs 1–2: head (101 parameters), not augmented",
        "phase 2": "epochs 3–4: head, last (329 parameters), augmented",
        "phase 3": "epochs 5–6: head, last, base (445 parameters), augmented",
    }
    few = phases("training.epochs=3")
    assert few["phase 2"].startswith("epoch 3 (2 planned): head, last (")
    assert few["phase 3"].startswith("not reached: head, last, base (")
    assert few["phase 3"].endswith("; training.epochs=null trains all 6 epochs")


def test_a_phase_that_may_end_early_moves_the_next():
    early = TWO_UNFREEZES[3].replace(
        "augment: false}", "augment: false, until: {metric: val/loss, patience: 2}}"
    )
    lines = phases(early, "training.epochs=4")
    assert ", or until val/loss is no better for 2 epochs: head (" in lines["phase 1"]
    assert lines["phase 2"].startswith("epochs 3–4 at the latest: ")
    assert lines["phase 3"].startswith("only if an earlier phase ends early: ")


@pytest.mark.parametrize(("dogs", "is_uneven"), [(12, False), (30, True)])
def test_classes_of_unequal_size_are_reported(tmp_path, dogs, is_uneven):
    counts = {f"{split}/cats": 10 for split in ("train", "validation", "test")}
    counts |= {name.replace("cats", "dogs"): dogs for name in counts}
    data = draw_folder(tmp_path / "data", counts)
    run = assemble(compose([*TINY[1:], "data=image_folder", f"data.dir={data}"]))
    line = describe_data(run.data)
    assert line.startswith(f"image_folder: {3 * (10 + dogs)} images (")
    uneven = f"training images per class: 10 (cats) to {dogs} (dogs)"
    assert line.endswith(uneven) == is_uneven


@pytest.mark.parametrize(
    ("residence", "nbytes", "kind", "line"),
    [
        ("disk", 12_340_000, "cpu", "12.3 MB in the cache on the disk"),
        ("ram", 2_500_000_000, "cpu", "2.5 GB in memory"),
        ("device", 2_500_000_000, "cpu", "2.5 GB in memory"),
        ("disk", 2_500_000_000, "cuda",
         "2.5 GB in the cache on the disk, 3 batches prefetched"),
        ("device", 12_340_000, "cuda", "12.3 MB on the GPU, 3 batches prefetched"),
    ],
)  # fmt: skip
def test_where_the_images_are_is_reported(residence, nbytes, kind, line):
    assert describe_residence(residence, nbytes, kind) == line
