"""What may change when a run is resumed, and what is refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from convlens.cli.main import main
from convlens.config.checks import find_rule
from convlens.config.compose import compose
from convlens.training.optimizers import compute_rate_factor, depends_on_length
from support.tiny import TINY, TWO_UNFREEZES

FEW = [*TINY, "callbacks=none", "logger.tensorboard=false", "model.dropout=0.2"]
FEW += ["data.augment.rotation_degrees=20"]
CONSTANT = [*FEW, "scheduler=constant", "scheduler.warmup_epochs=1.5"]
COSINE = [*FEW, "scheduler=cosine"]


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *words]) == 0
    return home


def state(home: Path) -> dict:
    return torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)


def same(one: Path, other: Path) -> bool:
    """Weights, the optimizer's moments and the record, to the bit."""
    a, b = state(one), state(other)
    moments = [list(each["optimizer_states"][0]["state"].values()) for each in (a, b)]
    return (
        all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
        and all(torch.equal(s[k], t[k]) for s, t in zip(*moments, strict=True) for k in s)
        and a["convlens_record"] == b["convlens_record"]
        and (a["epoch"], a["global_step"]) == (b["epoch"], b["global_step"])
    )


def files(home: Path) -> dict[str, tuple]:
    return {
        str(f): (f.stat().st_mtime_ns, f.stat().st_size) for f in home.rglob("*") if f.is_file()
    }


def refused(home: Path, capsys, *words: str) -> str:
    """What a resume is refused with; nothing in the folder but the log may have changed."""

    def kept() -> dict:
        return {n: v for n, v in files(home).items() if not n.endswith((".log", ".lock"))}

    before = kept()
    capsys.readouterr()
    assert main(["resume", f"run={home}", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert kept() == before
    return line


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("two") / "run", *CONSTANT, "training.epochs=2")


@pytest.fixture(scope="module")
def cosine(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("cosine") / "run", *COSINE, "training.epochs=2")


def copied(home: Path, to: Path) -> Path:
    return Path(shutil.copytree(home, to / "copy"))


def test_a_finished_run_is_left_as_it_is(two, capsys):
    before = files(two)
    assert main(["resume", f"run={two}"]) == 0
    assert capsys.readouterr().out.strip() == f"{two} is finished: nothing to do"
    assert main(["resume", f"run_dir={two}", "training.epochs=2"]) == 0  # nothing new is asked
    assert files(two) == before


def test_a_missing_page_of_a_finished_run_is_written(two, tmp_path):
    home = copied(two, tmp_path)
    (home / "report.html").unlink()
    half = home / ".report.html.1.tmp"  # of a process that was killed amid writing the page
    half.touch()
    assert main(["resume", f"run={home}"]) == 0
    assert (home / "report.html").exists() and not half.exists()


def test_longer_training_ends_as_the_long_run_does(two, tmp_path):
    home = copied(two, tmp_path)
    assert main(["resume", f"run={home}", "training.epochs=4"]) == 0
    long = train(tmp_path / "long", *CONSTANT, "training.epochs=4")
    assert same(home, long)
    assert yaml.safe_load((home / "config.yaml").read_text())["training"]["epochs"] == 4
    assert main(["resume", f"run={home}"]) == 0


def test_where_the_rates_know_the_length_it_is_refused(cosine, tmp_path, capsys):
    line = refused(cosine, capsys, "training.epochs=4")
    assert "training.epochs=4: scheduler=cosine" in line and "2 epochs" in line
    config = yaml.safe_load((cosine / "config.yaml").read_text())
    home = copied(cosine, tmp_path)
    (home / "summary.json").unlink()
    config["training"]["epochs"] = 4  # by hand, in the file
    (home / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert "scheduler=cosine" in refused(home, capsys)


def test_the_schedulers_that_know_the_length_are_known():
    """Held against the rates themselves, and complete: a new scheduler has to say it too."""
    for name in find_rule("scheduler.name").expected.replace(" or ", ", ").split(", "):
        spec = compose([f"scheduler={name}", "scheduler.warmup_epochs=1.5"]).scheduler
        times = [number / 8 for number in range(1, 80)]
        short, long = (
            [compute_rate_factor(spec, time, epochs) for time in times] for epochs in (10, 40)
        )
        assert (short != long) == depends_on_length(spec), name


def test_within_phases_the_length_of_the_run_is_no_matter(tmp_path, capsys):
    """Cut short by training.epochs, even a cosine goes on; the last phase may be longer where
    its rates do not know it."""
    phases = [*TWO_UNFREEZES, *FEW]
    phases = [word.replace("epochs: 2", "epochs: 1") for word in phases] + ["training.epochs=null"]
    total = compose(phases)
    lengths = [phase.epochs for phase in total.finetune.phases]
    last = f"finetune.phases.{len(lengths) - 1}.epochs"
    home = train(tmp_path / "run", *phases, "scheduler=cosine", "training.epochs=1")
    assert main(["resume", f"run={home}", "training.epochs=null"]) == 0
    assert same(home, train(tmp_path / "whole", *phases, "scheduler=cosine"))
    assert f"{last}=9: scheduler=cosine" in refused(home, capsys, f"{last}=9")
    other = train(tmp_path / "constant", *phases, "scheduler=constant")
    assert main(["resume", f"run={other}", f"{last}={lengths[-1] + 1}"]) == 0
    longer = [word.replace("epochs: 1, train: [head, last, base]",
                           "epochs: 2, train: [head, last, base]") for word in phases]  # fmt: skip
    assert longer != phases
    assert same(other, train(tmp_path / "longer", *longer, "scheduler=constant"))
    assert "finetune.phases.0.epochs" in refused(other, capsys, "finetune.phases.0.epochs=9")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.epochs=1"], "has trained 2 epochs already"),
        (["training.batch_size=4"], "training.batch_size cannot change on resume"),
        (["optimizer.lr=1"], "optimizer.lr cannot change on resume"),
        (["seed=1"], "seed cannot change on resume"),
        (["data=cifar10"], "data."),
        (["training.epochs=3", "training.accumulate=2"], "training.accumulate cannot change"),
        (["training.epoch=3"], "did you mean training.epochs"),
        (["trainer.fast_dev_run=true"], "not possible on resume"),
        (["epochs"], "expected key=value"),
    ],
)
def test_other_words_are_refused(two, capsys, words, said):
    assert said in refused(two, capsys, *words)


def test_a_config_edited_by_hand_is_held_against_the_checkpoint(two, tmp_path, capsys):
    home = copied(two, tmp_path)
    (home / "summary.json").unlink()
    config = yaml.safe_load((home / "config.yaml").read_text())
    for key, value in (("batch_size", 4), ("accumulate", 2), ("label_smoothing", 0.1)):
        edited = {**config, "training": {**config["training"], key: value}}
        (home / "config.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
        assert f"training.{key} differs from the checkpoint" in refused(home, capsys)


def test_what_the_weights_do_not_depend_on_may_change(two, tmp_path):
    home = copied(two, tmp_path)
    assert main(["resume", f"run={home}", "looking.seconds=1", "alarms.patience=3"]) == 0
    assert same(home, two)


def summary_of(home: Path) -> dict:
    return json.loads((home / "summary.json").read_text())


@pytest.mark.parametrize("old_place", ["gone", "there"])
def test_a_trained_run_without_summary_is_finished_where_it_lies_now(tmp_path, old_place):
    """Killed between training and test, then moved or copied."""
    home = train(tmp_path / "old", *CONSTANT, "training.epochs=2")
    before, kept = summary_of(home), state(home)
    (home / "summary.json").unlink()
    there = copied(home, tmp_path / "elsewhere")
    (home / "checkpoints" / "best.ckpt").write_text("what lies there now is another run's")
    if old_place == "gone":
        shutil.rmtree(home)
    files_before = files(home)
    assert main(["resume", f"run={there}"]) == 0
    after = summary_of(there)
    for key in ("epochs", "best_epoch", "val", "test"):
        assert after[key] == before[key], key
    assert files(home) == files_before and state(there)["epoch"] == kept["epoch"]


def test_a_moved_run_keeps_its_best_epoch(tmp_path):
    """The next epoch is not the best one only because the best was written elsewhere."""
    words = [*CONSTANT, "optimizer.lr=0.5"]
    whole = train(tmp_path / "whole", *words, "training.epochs=4")
    best = summary_of(whole)["best_epoch"]
    assert best < 4
    home = train(tmp_path / "old", *words, f"training.epochs={best}")
    best_file = home / "checkpoints" / "best.ckpt"
    untouched = (best_file.stat().st_mtime_ns, best_file.stat().st_size)
    there = copied(home, tmp_path / "elsewhere")
    assert main(["resume", f"run={there}", "training.epochs=4"]) == 0
    assert summary_of(there)["best_epoch"] == best
    assert summary_of(there)["test"] == summary_of(whole)["test"]
    assert same(there, whole)
    assert (best_file.stat().st_mtime_ns, best_file.stat().st_size) == untouched
    # and once more, in a third place
    third = Path(shutil.move(there, tmp_path / "third"))
    (third / "summary.json").unlink()
    assert main(["resume", f"run={third}"]) == 0
    assert summary_of(third)["test"] == summary_of(whole)["test"]


def test_early_stopping_is_not_undone_by_more_epochs(tmp_path, capsys):
    words = [*CONSTANT, "training.epochs=9", "training.early_stopping=1", "optimizer.lr=1e-9"]
    home = train(tmp_path / "run", *words)
    assert state(home)["epoch"] < 8
    said = refused(home, capsys, "training.epochs=20")
    assert "training.early_stopping ended" in said


@pytest.mark.parametrize("words", [[], ["training.ema=0.9"], ["optimizer=sgd"]])
def test_a_run_in_float64_continues_with_the_same_bits(tmp_path, words):
    """Lightning would load the weights into a network that is still float32."""
    words = [*CONSTANT, "precision=64", *words]
    whole = train(tmp_path / "whole", *words, "training.epochs=2")
    parted = train(tmp_path / "parted", *words, "training.epochs=1")
    assert main(["resume", f"run={parted}", "training.epochs=2"]) == 0
    assert state(whole)["state_dict"]["model.head.logits.weight"].dtype == torch.float64
    assert same(parted, whole)
