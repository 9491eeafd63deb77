"""``metrics=[…]``: torchmetrics by name, checked before training, and in every place they land."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.training.metrics import EpochMetrics
from convlens.training.named_metrics import build_metrics
from support.tiny import TINY

NAMED = ["auroc", "AveragePrecision", "cohen_kappa", "MulticlassMatthewsCorrCoef", "top5", "top_2"]
KEYS = ["auroc", "average_precision", "cohen_kappa", "matthews_corr_coef", "top5_accuracy",
        "top2_accuracy"]  # fmt: skip


def make_answers(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(count)
    labels = torch.randint(classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random)
    logits[torch.arange(count), labels] += 1
    return logits, labels


@pytest.mark.parametrize(("count", "classes", "sizes"), [(60, 7, 60), (61, 12, 9)])
def test_named_metrics_are_those_of_scikit_learn(count, classes, sizes):
    reference = pytest.importorskip("sklearn.metrics", reason="comes with the extra `proofs`")
    logits, labels = make_answers(count, classes)
    metrics = EpochMetrics([f"c{n}" for n in range(classes)], detailed=True, named=NAMED)
    for part, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(cross_entropy(part, truth), part, truth)
    found = metrics.compute()
    shares, truth = logits.double().softmax(1).numpy(), labels.numpy()
    one_hot, kinds = torch.nn.functional.one_hot(labels, classes).numpy(), range(classes)
    wanted = {
        "auroc": reference.roc_auc_score(one_hot, shares, average="macro"),
        "average_precision": reference.average_precision_score(one_hot, shares, average="macro"),
        "cohen_kappa": reference.cohen_kappa_score(truth, shares.argmax(1)),
        "matthews_corr_coef": reference.matthews_corrcoef(truth, shares.argmax(1)),
        "top5_accuracy": reference.top_k_accuracy_score(truth, shares, k=5, labels=kinds),
        "top2_accuracy": reference.top_k_accuracy_score(truth, shares, k=2, labels=kinds),
    }
    assert [*wanted] == KEYS
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=1e-5), key


def test_one_logit_is_read_as_two_classes():
    logits = torch.tensor([[-2.0], [1.0], [0.5], [-0.1]])
    labels = torch.tensor([0, 1, 0, 1])
    metrics = EpochMetrics(["no", "yes"], detailed=True, named=["auroc"])
    metrics.update(torch.tensor(0.5), logits, labels)
    # of the four pairs of a yes and a no, one has the no above the yes
    assert metrics.compute()["auroc"] == pytest.approx(0.75)


def test_metrics_start_anew_every_epoch():
    logits, labels = make_answers(40, 7)
    metrics, fresh = (EpochMetrics(list("abcdefg"), detailed=True, named=NAMED) for _ in range(2))
    metrics.update(torch.tensor(0.1), -logits, labels)
    metrics.compute()
    for each in (metrics, fresh):
        each.update(torch.tensor(0.2), logits, labels)
    assert metrics.compute() == fresh.compute()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aurok", "did you mean auroc"),
        ("matthews_corr", "did you mean matthews_corr_coef"),
        ("accuracy", "computed in every run"),
        ("balanced_accuracy", "computed in every run"),
        ("loss", "computed in every run"),
        ("top5", "does not fit 5 classes"),
        ("top1", "does not fit 5 classes"),
        ("roc", "a curve or a table"),
        ("ConfusionMatrix", "a curve or a table"),
        ("fbeta_score", "beta"),
        ("recall_at_fixed_precision", "min_precision"),
        ("fid", "there is no fid"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_in_one_line(name, said):
    with pytest.raises(UserError, match=said) as error:
        build_metrics([name], 5)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_an_unknown_metric_is_refused_before_anything_is_written(tmp_path, capsys):
    words = ["train", f"run_dir={tmp_path / 'run'}", *TINY, "metrics=[auroc, kohen_kappa]"]
    assert main(words) == 2
    assert "did you mean cohen_kappa?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_single_name_is_refused_with_the_form(tmp_path, capsys):
    assert main(["train", f"run_dir={tmp_path / 'run'}", *TINY, "metrics=auroc"]) == 2
    assert "list" in capsys.readouterr().err


def test_they_land_in_the_table_the_events_the_summary_and_on_the_page(tmp_path, capsys):
    home = tmp_path / "run"
    words = [*TINY, "training.epochs=2", "metrics=[cohen_kappa, AUROC]"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    with open(home / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((home / "summary.json").read_text())
    events = EventAccumulator(str(home / "tensorboard"), {"scalars": 0})
    events.Reload()
    for name in ("cohen_kappa", "auroc"):
        column = [float(row[f"val/{name}"]) for row in rows]
        assert len(column) == 3
        sent = [event.value for event in events.Scalars(f"val/{name}")]
        assert sent == pytest.approx(column, rel=1e-6)
        assert summary["val"][name] == column[summary["best_epoch"]]
        (tested,) = events.Scalars(f"test/{name}")
        assert tested.value == pytest.approx(summary["test"][name], rel=1e-6)
        # computed once by torchmetrics, and once from the predictions
        detailed = summary["test_details"]["scores"][name]["value"]
        assert detailed == pytest.approx(summary["test"][name], abs=1e-5)
        assert f"<th>{name.replace('_', ' ')}</th>" in (home / "report.html").read_text()
    capsys.readouterr()
    assert main(["eval", f"run={home}"]) == 0
    assert "95 % interval" in capsys.readouterr().out
    found = json.loads((home / "evaluation" / "best" / "results.json").read_text())
    assert found["test"] == pytest.approx(summary["test"], rel=1e-5)
    assert found["test_details"]["classes"].keys() == summary["test_details"]["classes"].keys()
