"""Every experiment file runs: one batch of everything, explanations included."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.config.folder import list_groups
from support.tiny import shrink_network

# of the large networks: the others look at the same layers
SHOWN = ("finetune_vgg16", "finetune_inception_v3", "finetune_timm", "scratch_vit")


# others have the same networks: cats_dogs_overfit, reproduce/inception_v3_flowers, finetune_timm
TWINS = ("reproduce/cats_dogs_regularized", "finetune_inception_v3", "modern_timm")


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in TWINS else [])
        for name in list_groups()["experiment"]
    ],
)
def test_experiment_runs_offline_on_shapes(experiment, at, capsys):
    config = compose([f"exp={experiment}", "data=shapes"])
    data = config.data
    words = ["data=shapes", "data.pictures=60", f"data.classes={2 if data.size == 150 else 5}"]
    if config.model.name != "scratch":
        # neither the size of the pictures nor of the batch is what is tested here
        words += ["training.batch_size=4", "training.eval_batch_size=4"]
        words += shrink_network(config.model.name)
        words += [] if experiment in SHOWN else ["callbacks=none"]
    words += ["debug=fast_dev_run", "precision=32", "trainer=cpu", "probes.count=2"]
    # one unit of each layer shows that the path runs; how pictures look is tested elsewhere
    if "callbacks=none" not in words:
        words += ["callbacks.activation_grids.limit=3"]
        words += ["callbacks.filter_visuals.units=1", "callbacks.filter_visuals.full_units=1"]
        words += ["callbacks.filter_visuals.steps=2", "looking.last_seconds=5"]
    assert main(["train", f"exp={experiment}", *words]) == 0
    printed = capsys.readouterr().out
    assert "one batch of training, validation and test passed" in printed
    assert "failed" not in printed


def choices(experiment: str) -> dict[str, str]:
    """What an experiment and those it builds on choose; composing all of them takes seconds."""
    file = resources.files("convlens.configs") / "experiment" / f"{experiment}.yaml"
    chosen: dict[str, str] = {}
    for entry in yaml.safe_load(file.read_text()).get("defaults", ()):
        if isinstance(entry, dict):
            chosen |= {group.removeprefix("override /"): name for group, name in entry.items()}
        elif entry != "_self_":
            chosen |= choices(entry)
    return chosen


# one for each source that a small network is trained on: the others differ in the network alone
QUICK = ("reproduce/mnist_convnet", "reproduce/cats_dogs_overfit")
OWN_DATA = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in list_groups()["experiment"]
    if choices(name).get("data") in ("cats_dogs", "mnist", "flowers")
]


@pytest.mark.parametrize("experiment", OWN_DATA)
def test_experiment_runs_on_its_own_data(experiment, at, shared_data, request, monkeypatch):
    monkeypatch.setenv("CONVLENS_DATA", str(shared_data))
    if compose([f"exp={experiment}"]).model.name != "scratch":
        # with its weights, end to end: storing the features of all pictures takes minutes
        monkeypatch.setenv("CONVLENS_WEIGHTS", str(request.getfixturevalue("shared_weights")))
    words = ["debug=fast_dev_run", "precision=32", "trainer=cpu", "callbacks=none"]
    words += ["cache_features=never", "training.batch_size=8", "training.eval_batch_size=8"]
    assert main(["train", f"exp={experiment}", *words]) == 0


# a ResNet is what exp=finetune_timm trains anyway
SLOW = ["resnet18", "efficientnet_b0", "mobilenetv3_small_100", "regnetx_002", "densenet121"]
FAMILIES = ["convnext_atto", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_families_run(name, at, capsys):
    words = ["data=shapes", "data.pictures=60", "model.weights=none", "data.size=64"]
    words += ["debug=fast_dev_run", "precision=32", "trainer=cpu", "probes.count=2"]
    words += ["training.batch_size=4", "training.eval_batch_size=4"]
    words += ["callbacks.filter_visuals=null", "callbacks.activation_grids.limit=4"]
    assert main(["train", "exp=finetune_timm", f"model.name={name}", *words]) == 0
    printed = capsys.readouterr().out
    assert "one batch of training, validation and test passed" in printed
    assert "failed" not in printed
