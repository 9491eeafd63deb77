"""Groups and phases: who is trained when, at which rate, and every mistake named."""

from __future__ import annotations

import copy

import pytest
import torch

from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from convlens.training import ClassifierModule
from convlens.training.finetune.groups import build_groups
from convlens.training.finetune.schedule import Phase, Plateau, Schedule

SMALL = ["data.size=16", "model.filters=[4,6,8]", "model.padding=same", "model.batch_norm=true"]
SMALL += ["scheduler=constant", "scheduler.warmup_epochs=0"]
GROUPS = {"head": "head", "last": "backbone.block3", "base": "backbone"}
PHASES = [
    {"epochs": 2, "train": ["head"], "lr": {"head": 0.1}, "augment": False},
    {
        "epochs": 4,
        "train": ["head", "last"],
        "lr": {"head": 0.02, "last": 0.01},
        "warmup_epochs": 2,
    },
    {"epochs": 2, "train": ["head", "last", "base"], "lr": 0.001},
]


def module(groups=None, phases=None, **finetune) -> ClassifierModule:
    config = compose(
        [*SMALL, "training.epochs=null", "scheduler=constant"] if phases != 0 else SMALL
    )
    if phases != 0:
        finetune = {
            "batch_norm": "frozen_eval",
            "groups": GROUPS if groups is None else groups,
            "phases": copy.deepcopy(PHASES) if phases is None else phases,
            **finetune,
        }
        config = replace_values(config, {"finetune": finetune})
    return build_module(config, ["a", "b", "c", "d", "e"])


def trained(made: ClassifierModule) -> set[str]:
    return {
        ".".join(name.split(".")[1:3])
        for name, parameter in made.named_parameters()
        if parameter.requires_grad
    }


def test_the_first_group_that_matches_takes_a_parameter():
    model = module().model
    found = build_groups(GROUPS, model)
    names = [name for family in found.values() for group in family for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert all(name.startswith("backbone.block3") for name in found["last"][0].parameters)
    assert {name.split(".")[1] for name in found["base"][0].parameters} == {"block1", "block2"}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            {"head": "head", "last": "backbone.block9", "base": "backbone"},
            "backbone.block9; did you",
        ),
        ({"head": "head", "a": "backbone.block[12]", "b": "backbone.block[23]"}, "a and b overlap"),
        ({"head": "head", "a": "backbone", "b": "backbone.block3"}, "a and b overlap"),
        (
            {"head": "head", "last": "backbone.block3"},
            "in no group, the first is backbone.block1",
        ),
        ({"head": "head", "base": {"match": "backbone"}}, "{match: …, stage_decay: …}"),
        ({"head": "head", "base": {"match": "backbone", "stage_decay": 2}}, "stage_decay=2"),
        ({"head": {"match": "head", "stage_decay": 0.5}, "base": "backbone"}, "with stages"),
        ({"head": [], "base": "backbone"}, "expected a pattern, a list of patterns or"),
    ],
)
def test_a_pattern_without_a_match_and_overlaps_are_named(groups, said):
    with pytest.raises(UserError, match="finetune.groups") as caught:
        module(groups=groups)
    assert said in str(caught.value)


def test_stage_decay_makes_a_group_a_stage_each_slower_than_the_next():
    phases = [{"epochs": 1, "train": ["head", "base"], "lr": {"head": 1.0, "base": 0.8}}]
    groups = {"head": "head", "base": {"match": "backbone", "stage_decay": 0.5}}
    schedule = module(groups, phases).schedule
    assert schedule.rates(0.0, {}) == {
        "head": 1.0, "base/block1": 0.2, "base/block2": 0.4, "base/block3": 0.8
    }  # fmt: skip
    one = [{"epochs": 1, "train": ["head", "base/block3"], "lr": 0.1}]
    assert module(groups, one).schedule.phases[0].train == ("head", "base/block3")


def test_phases_freeze_and_unfreeze():
    made = module()
    assert trained(made) == {"head.logits"}
    made.enter(made.schedule.phases[1])
    assert trained(made) == {"head.logits", "backbone.block3"}
    made.enter(made.schedule.phases[2])
    assert len(trained(made)) == 4


def test_rates_are_a_pure_function_of_the_time():
    schedule = module().schedule
    assert schedule.rates(0.0, {}) == {"head": 0.1, "last": 0, "base": 0}
    assert schedule.rates(1.99, {}) == {"head": 0.1, "last": 0, "base": 0}
    # warm-up of what is new, the head goes on
    assert schedule.rates(2.0, {}) == {"head": 0.02, "last": 0, "base": 0}
    assert schedule.rates(3.0, {}) == {"head": 0.02, "last": 0.005, "base": 0}
    assert schedule.rates(4.0, {}) == {"head": 0.02, "last": 0.01, "base": 0}
    assert schedule.rates(6.5, {}) == {"head": 0.001, "last": 0.001, "base": 0.001}


def test_a_scheduler_falls_within_each_phase():
    config = compose([*SMALL, "training.epochs=null", "scheduler=linear"])
    finetune = {"batch_norm": "frozen_eval", "groups": GROUPS, "phases": PHASES}
    config = replace_values(config, {"finetune": finetune})
    schedule = build_module(config, list("abcde")).schedule
    heads = [schedule.rates(time, {})["head"] for time in (0.0, 1.0, 2.0, 4.0, 6.0)]
    assert heads == pytest.approx([0.1, 0.05, 0.02, 0.01, 0.001])


def test_a_plateau_ends_a_phase_by_what_is_recorded():
    phases = copy.deepcopy(PHASES)
    phases[1] |= {"epochs": 10, "until": {"metric": "val/loss", "patience": 2}}
    schedule = module(phases=phases).schedule
    losses = [9, 9, 0.5, 0.4, 0.6, 0.45, 0.3, 0.2]
    record = {epoch: {"val/loss": loss} for epoch, loss in enumerate(losses)}
    numbers = [schedule.phase_at(epoch, record)[0].number for epoch in range(9)]
    # lowest at epoch 3, two epochs without a lower one: phase 2 begins with epoch 6
    assert numbers == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert schedule.phase_at(7, record)[1] == 6
    assert not schedule.is_finished(7, record)
    assert schedule.is_finished(8, record)
    # the same record up to an epoch gives the same phase for it: a resumed run goes the same way
    for epoch in range(9):
        known = {e: row for e, row in record.items() if e < epoch}
        assert schedule.phase_at(epoch, known)[0] is schedule.phase_at(epoch, record)[0]


def test_a_plateau_of_an_accuracy_looks_for_higher_ones():
    phases = [PHASES[0] | {"epochs": 9, "until": {"metric": "val/accuracy", "patience": 1}}]
    schedule = module(phases=phases).schedule
    record = {0: {"val/accuracy": 0.5}, 1: {"val/accuracy": 0.7}, 2: {"val/accuracy": 0.6}}
    assert not schedule.is_finished(2, record)
    assert schedule.is_finished(3, record)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": ["heads"]}, "no group heads; did you mean head"),
        ({"train": []}, "a list of groups"),
        ({"lr": {"head": -1}}, "rate of head must be above 0"),
        ({"lr": {"head": 0.1, "base": 0.1}}, "base has a rate but is not"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": None}, "epochs=None"),
        ({"augment": "no"}, "true or false"),
        ({"warmup_epochs": 5}, "choose 0 to 2"),
        ({"until": {"metric": "val/loss"}}, "null or {metric: …, patience: …}"),
        ({"until": {"metric": "val/los", "patience": 2}}, "did you mean val/loss"),
        ({"until": {"metric": "val/loss", "patience": 0}}, "patience=0"),
        ({"epoch": 3}, "did you mean epochs"),
    ],
)
def test_mistakes_in_a_phase_are_named(change, said):
    with pytest.raises(UserError, match=r"finetune\.phases\.0") as caught:
        module(phases=[PHASES[0] | change])
    assert said in str(caught.value)


def test_more_epochs_than_the_phases_have_are_refused():
    config = compose([*SMALL, "training.epochs=30"])
    finetune = {"batch_norm": "frozen_eval", "groups": GROUPS, "phases": PHASES}
    config = replace_values(config, {"finetune": finetune})
    with pytest.raises(UserError, match="phases of finetune have only 8"):
        build_module(config, list("abcde"))


def modes(made: ClassifierModule) -> dict[str, bool]:
    return {n: m.training for n, m in made.model.named_modules() if n.endswith("norm")}


def test_frozen_batch_norm_rests_whoever_calls_train():
    made = module()
    made.train()
    assert set(modes(made).values()) == {False}
    assert made.model.head.training
    made.enter(made.schedule.phases[1])
    for _ in range(2):
        assert modes(made) == {
            "backbone.block1.norm": False, "backbone.block2.norm": False,
            "backbone.block3.norm": True,
        }  # fmt: skip
        made.eval()
        made.train()


def test_batch_norm_eval_rests_everywhere_and_train_nowhere():
    made = module(batch_norm="eval")
    made.enter(made.schedule.phases[2])
    assert set(modes(made).values()) == {False}
    assert module(batch_norm="train").model.backbone.block1.norm.training
    with pytest.raises(UserError, match="did you mean frozen_eval"):
        module(batch_norm="frozen")


def test_frozen_statistics_and_parameters_are_unchanged_by_training_steps():
    made = module()
    made.enter(made.schedule.phases[1])
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    optimizer = made.configure_optimizers()
    made.set_rates(optimizer, 5.0)
    for _ in range(3):
        optimizer.zero_grad()
        pictures, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 5
        made.objective(made.model(pictures), labels).backward()
        optimizer.step()
    for name, value in made.model.state_dict().items():
        moved = name.startswith(("head", "backbone.block3"))
        assert torch.equal(value, before[name]) != moved, name


def test_without_phases_everything_is_one_group_called_model():
    made = module(phases=0)
    assert list(made.schedule.groups) == ["model"]
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert made.schedule.epochs == compose(SMALL).training.epochs


def test_what_a_shorter_run_leaves_out():
    def phase(number: int, epochs: int, until: Plateau | None = None) -> Phase:
        return Phase(number, epochs, ("head",), {"head": 1.0}, frozenset(), True, 0.0, until)

    plain = Schedule({}, (phase(0, 5), phase(1, 15)))
    for epochs in range(1, 21):
        spans = plain.list_spans(epochs)
        trained = {e: p.number for p, start, end in spans for e in range(start, end)}
        assert trained == {e: plain.phase_at(e, {})[0].number for e in range(epochs)}
    assert plain.describe_untrained(20) == ""
    assert "phase 2 of 2 (head) gets 1 of its 15 epochs" in plain.describe_untrained(6)
    assert (
        "(head) will not be trained; training.epochs=null trains all 20"
        in plain.describe_untrained(5)
    )
    early = Schedule({}, (phase(0, 5, Plateau("val/loss", 1)), phase(1, 15)))
    assert "will not be trained unless an earlier one ends early" in early.describe_untrained(5)
