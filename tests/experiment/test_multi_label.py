"""Images with several classes, from training to prediction."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens import load, open_run
from convlens.cli.main import main
from convlens.data.sources.shapes import draw_shapes
from support.tiny import TINY, draw_folder

WORDS = [*TINY, "exp=multi_label", "data.pictures=120", "data.size=24", "training.epochs=2",
         "looking.seconds=600", "looking.first_seconds=600",
         "callbacks.filter_visuals.steps=2"]  # fmt: skip
CLASSES = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("several") / "run"
    assert main(["train", f"run_dir={home}", *WORDS]) == 0
    assert main(["eval", f"run={home}"]) == 0
    return home


@pytest.fixture(scope="module")
def summary(home) -> dict:
    return json.loads((home / "summary.json").read_text())


def read_table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as table:
        return list(csv.DictReader(table))


def test_nothing_fails(summary):
    assert summary["failures"] == []


def test_every_metric_is_in_the_table_the_events_and_the_summary(home, summary):
    rows = read_table(home / "metrics.csv")
    events = EventAccumulator(str(home / "tensorboard"), {"scalars": 0})
    events.Reload()
    names = list(json.loads((home / "data.json").read_text())["classes"])
    assert len(names) == CLASSES
    keys = ["loss", "accuracy", "mean_ap", "macro_f1", *(f"{k}/{n}" for k in ("ap", "f1")
            for n in names)]  # fmt: skip
    for key in keys:
        column = [float(row[f"val/{key}"]) for row in rows]
        assert [e.value for e in events.Scalars(f"val/{key}")] == pytest.approx(column, rel=1e-5)
        assert summary["val"][key] == column[summary["best_epoch"]]
        assert key in summary["test"]
    assert "balanced_accuracy" not in summary["test"]


def test_results_are_those_of_scikit_learn_on_the_predictions(home, summary):
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    rows = read_table(home / "evaluation" / "best" / "predictions.csv")
    names = list(summary["test_details"]["classes"])
    scores = np.array([[float(row[f"probability/{name}"]) for name in names] for row in rows])
    truth = np.array([[name in row["true"].split("|") for name in names] for row in rows])
    thresholds = np.array([summary["test_details"]["classes"][n]["threshold"] for n in names])
    predicted = scores >= thresholds
    assert [row["predicted"] for row in rows] == [
        "|".join(name for name, is_in in zip(names, row, strict=True) if is_in) for row in predicted
    ]
    test = summary["test"]
    wanted = reference.average_precision_score(truth, scores, average=None)
    assert [test[f"ap/{n}"] for n in names] == pytest.approx(wanted, abs=1e-4)
    wanted = reference.f1_score(truth, predicted, average=None, zero_division=0)
    assert [test[f"f1/{n}"] for n in names] == pytest.approx(wanted)
    assert test["accuracy"] == pytest.approx(((scores > 0.5) == truth).mean())
    assert test["loss"] == pytest.approx(
        -np.log(np.where(truth, scores, 1 - scores)).mean(), abs=1e-4
    )
    results = json.loads((home / "evaluation" / "best" / "results.json").read_text())
    assert results["test"] == pytest.approx(test, rel=1e-5)


def test_the_test_images_have_the_classes_that_were_drawn(home):
    rows = read_table(home / "evaluation" / "best" / "predictions.csv")
    drawn = draw_shapes(
        len(rows), size=24, channels=3, classes=CLASSES, seed=0, stream=2, objects=2
    )
    names = [key.removeprefix("probability/") for key in rows[0] if key.startswith("prob")]
    for row, present in zip(rows, drawn["present"], strict=True):
        assert row["true"] == "|".join(n for n, is_in in zip(names, present, strict=True) if is_in)


def test_thresholds_belong_to_the_checkpoint_and_were_chosen_on_validation(home, summary):
    found = torch.load(home / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    thresholds = found["thresholds"]
    assert thresholds.shape == (CLASSES,)
    table = summary["test_details"]["classes"].values()
    assert thresholds.tolist() == pytest.approx([row["threshold"] for row in table])
    explainer = load(home / "checkpoints" / "best.ckpt")
    pixels = draw_shapes(
        120 // 8, size=24, channels=3, classes=CLASSES, seed=0, stream=1, objects=2
    )
    images = torch.from_numpy(pixels["images"]).permute(0, 3, 1, 2).float() / 255
    scores = explainer.probabilities(images).numpy()
    for k in range(CLASSES):
        truth = pixels["present"][:, k]

        def f1(threshold: float, k: int = k, truth: np.ndarray = truth) -> float:
            above = scores[:, k] >= threshold
            return 2 * (above & truth).sum() / max(1, above.sum() + truth.sum())

        best = max(f1(edge) for edge in [*scores[:, k], 2.0])
        assert f1(float(thresholds[k])) == pytest.approx(best)


def test_a_map_of_each_class_is_kept(home):
    run = open_run(home)
    maps = run.maps("grad_cam", epoch=2)
    assert list(maps.roles) == ["predicted", "true", "true 2"]
    drawn = draw_shapes(15, size=24, channels=3, classes=CLASSES, seed=0, stream=1, objects=2)
    names = list(json.loads((home / "data.json").read_text())["classes"])
    for probe, (_, *true) in zip(maps.probes, maps.classes, strict=True):
        number = int(run.probes[probe].source.rpartition("/")[2])
        wanted = [n for n, is_in in zip(names, drawn["present"][number], strict=True) if is_in]
        assert true == wanted and probe.endswith("-".join(wanted))
    for values in maps.layers.values():
        assert np.isfinite(values).all()


def test_pictures_are_there_and_the_page_names_the_metric(home):
    tags = set(open_run(home).pictures)
    assert {"predictions/confusion_matrix", "predictions/mistakes", "predictions/breakdown",
            "predictions/random", "predictions/confusion_matrix/test",
            "grad_cam_means"} <= tags  # fmt: skip
    page = (home / "report.html").read_text()
    assert "validation mean average precision" in page and "<th>threshold</th>" in page


def test_the_pointing_game_is_that_of_each_classs_own_object(home):
    """All scores are computed on the 40 images that a look samples; here on all fifteen."""
    from convlens.explain.grad_cam import grad_cam

    network = load(home / "checkpoints" / "last.ckpt").network
    (layer,) = open_run(home).maps("grad_cam", epoch=2).layers
    drawn = draw_shapes(15, size=24, channels=3, classes=CLASSES, seed=0, stream=1, objects=2)
    images = torch.from_numpy(drawn["images"]).permute(0, 3, 1, 2).float() / 255
    hits = []
    for image, present, objects in zip(images, drawn["present"], drawn["objects"], strict=True):
        for k in np.flatnonzero(present):
            result = grad_cam(network, image[None], torch.tensor([k]), [layer])
            big = result.upsample((24, 24))[layer][0, 0]
            if big.max() > 0:
                row, column = np.unravel_index(int(big.argmax()), big.shape)
                hits.append(objects[row, column] == k + 1)
    rows = read_table(home / "metrics.csv")
    assert float(rows[2]["explain/pointing_game"]) == pytest.approx(np.mean(hits), abs=0.15)


def test_looking_changes_nothing(home, tmp_path):
    words = [word for word in WORDS if not word.startswith("callbacks.")]
    assert main(["train", f"run_dir={tmp_path / 'bare'}", *words, "callbacks=none"]) == 0
    seen, bare = (
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for each in (home, tmp_path / "bare")
    )
    assert seen.keys() == bare.keys()
    assert all(torch.equal(seen[key], bare[key]) for key in seen)


MIXED = ["data.augment.mixup=0.4", "data.augment.cutmix=1", "training.sampler=balanced"]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    words = [*WORDS, "callbacks=none", "scheduler=constant", "data.augment.rotation_degrees=20"]
    words += MIXED
    words = [word for word in words if not word.startswith("callbacks.")]
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(["train", f"run_dir={whole}", *words]) == 0
    assert main(["train", f"run_dir={half}", *words, "training.epochs=1"]) == 0
    assert main(["resume", f"run={half}", "training.epochs=2"]) == 0
    first, second = (
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for each in (whole, half)
    )
    assert first.keys() == second.keys() and "thresholds" in first
    assert all(torch.equal(first[key], second[key]) for key in first)
    tested = [json.loads((each / "summary.json").read_text())["test"] for each in (whole, half)]
    assert tested[0] == tested[1]


def test_predict_lists_the_classes_above_their_threshold(home, tmp_path, capsys):
    drawn = draw_shapes(6, size=24, channels=3, classes=CLASSES, seed=4, stream=2, objects=2)
    from PIL import Image

    (tmp_path / "new").mkdir()
    for number, pixels in enumerate(drawn["images"]):
        Image.fromarray(pixels).save(tmp_path / "new" / f"{number}.png")
    ckpt = home / "checkpoints" / "best.ckpt"
    out = tmp_path / "out"
    words = [f"ckpt={ckpt}", f"images={tmp_path / 'new'}", f"run_dir={out}"]
    assert main(["predict", *words]) == 0
    printed = capsys.readouterr().out
    explainer = load(ckpt)
    counts: dict[str, int] = {}
    for row in read_table(out / "predictions.csv"):
        image = explainer.read(row["file"])
        shares = explainer.probabilities(image[None])[0]
        above = (shares >= explainer.thresholds).nonzero()[:, 0].tolist()
        names = [explainer.class_names[k] for k in above]
        assert row["predicted"] == "|".join(names)
        for name in names or ["none of the classes"]:
            counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        assert f"{count} {name}" in printed


def test_explain_explains_every_predicted_class(home):
    explainer = load(home / "checkpoints" / "best.ckpt")
    explainer.thresholds[:] = 0.0  # all are predicted
    pixels = draw_shapes(1, size=24, channels=3, classes=CLASSES, seed=4, stream=2, objects=2)
    found = explainer.explain(pixels["images"][0], only="grad_cam", name="it")
    assert len(found.targets) == CLASSES and set(found.predicted) == set(range(CLASSES))
    assert float(found.probabilities.sum()) != pytest.approx(1)
    explainer.thresholds[:] = 2.0  # none is
    found = explainer.explain(pixels["images"][0], only="grad_cam", name="it")
    assert found.predicted == () and len(found.targets) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exp=multi_label", "training.loss=cross_entropy"], "set training.loss=multi_label"),
        (["exp=multi_label", "training.loss=binary"], "set training.loss=multi_label"),
        (["exp=scratch", "training.loss=multi_label"], "data.objects=2 for shapes"),
        (["exp=multi_label", "training.class_weights=balanced"], "set it to null"),
        (["exp=multi_label", "scores=all"], "leave scores=all out"),
        (["exp=multi_label", "data.shortcut=1"], "set data.objects=1"),
        (["exp=multi_label", "data.label_noise=0.1"], "set data.objects=1"),
        (["exp=multi_label", "data.classes=2"], "3 classes or more"),
    ],
)
def test_what_does_not_fit_is_refused(words, said, tmp_path, capsys):
    assert main(["train", f"run_dir={tmp_path / 'run'}", *TINY, *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


FOLDER = [*(w for w in TINY if not w.startswith("data.pictures")), "training.epochs=1",
          "data=image_folder", "data.multi_label=true", "training.loss=multi_label",
          "callbacks=none"]  # fmt: skip


def test_a_table_of_labels_trains_and_is_tested(at, capsys):
    draw_folder(at, {"pictures": 60})
    kinds = ("cat", "dog", "bird")
    random = np.random.default_rng(0)
    rows = ["file,labels"]
    for number in range(60):
        chosen = random.permutation(3)[: 1 + number % 2]
        rows.append(f"{number}.png,{'|'.join(kinds[k] for k in chosen)}")
    (at / "pictures" / "labels.csv").write_text("\n".join(rows) + "\n")
    words = ["data.dir=pictures", "data.csv=labels.csv", "run_dir=run"]
    assert main(["train", *FOLDER, *words]) == 0
    assert main(["eval", "run=run"]) == 0
    assert "mean ap" in capsys.readouterr().out
    texts = {line.split(",")[0]: set(line.split(",")[1].split("|")) for line in rows[1:]}
    for row in read_table(at / "run" / "evaluation" / "best" / "predictions.csv"):
        assert set(row["true"].split("|")) == texts[Path(row["file"]).name]
    for row in read_table(at / "run" / "split.csv"):
        assert set(row["label"].split("|")) == texts[row["file"]]
    facts = json.loads((at / "run" / "data.json").read_text())
    counts = {name: sum(f"|{name}|" in f"|{line.split(',')[1]}|" for line in rows[1:])
              for name in facts["classes"]}  # fmt: skip
    found = np.sum(list(facts["images"].values()), axis=0).tolist()
    assert dict(zip(facts["classes"], found, strict=True)) == counts
    assert sum(facts["totals"].values()) == 60


def test_links_in_several_class_folders_train(at, capsys):
    draw_folder(at / "pictures", {"cat": 30, "dog": 30})
    for number in range(6):
        (at / "pictures" / "dog" / f"same{number}.png").symlink_to(
            at / "pictures" / "cat" / f"{number}.png"
        )
    assert main(["train", *FOLDER, "data.dir=pictures", "run_dir=run"]) == 0
    log = (at / "run" / "train.log").read_text()
    assert "6 of 60 images have several classes" in log and "conflicting labels" not in log
    labels = [row["label"] for row in read_table(at / "run" / "split.csv")]
    assert len(labels) == 60 and labels.count("cat|dog") == 6
    shutil.rmtree(at / "run")
    # without the key it is what it was: two labels that contradict each other
    words = [w for w in FOLDER if "multi_label" not in w]
    assert main(["train", *words, "data.dir=pictures", "run_dir=run"]) == 0
    assert "conflicting labels" in (at / "run" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], [*MIXED, "callbacks=none"]], ids=["plain", "mixed"])
def test_two_processes_train_and_choose_as_one(tmp_path, more):
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        words = [w for w in WORDS if not w.startswith("trainer=")]
        words = [w for w in words if not (more and w.startswith("callbacks."))]
        words += ["model.batch_norm=false", "precision=64", f"trainer={trainer}", *more]
        command = [sys.executable, "-m", "convlens", "train", f"run_dir={tmp_path / name}", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for key in one:
        torch.testing.assert_close(one[key].double(), two[key].double(), rtol=1e-6, atol=1e-6)


# looking changes no weight; the scores need no picture
ONLY_SCORES = [f"callbacks.{name}=null" for name in (
    "activation_grids", "augmentation_preview", "class_means", "confusion_matrix", "grad_cam",
    "learning_curves", "mistakes", "occlusion_maps", "filter_visuals", "reliability",
)]  # fmt: skip


@pytest.mark.slow
def test_the_recipe_finds_both_objects_and_points_at_each(tmp_path):
    assert main(["train", f"run_dir={tmp_path / 'run'}", "exp=multi_label", *ONLY_SCORES]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"]["mean_ap"] >= 0.95
    # the peak of a map of 8×8 cells; an object covers less than a tenth of the image
    assert summary["scores"]["object_share"] < 0.1
    assert summary["scores"]["pointing_game"] >= 0.6
