"""``training.compile: auto``: on where the run is long enough; ``plan`` and ``train`` say so."""

from __future__ import annotations

import pytest
import torch
import yaml

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment import compilation
from convlens.experiment.assemble import assemble
from convlens.experiment.compilation import check_graphs, decide_compile, settle_compile
from support.tiny import TINY, TWO_UNFREEZES


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, on which a step takes ``seconds[0]``; the phases that were timed."""
    seconds, timed = [1.0], []

    def time_steps(config, module, precisions):
        timed.append((module.phase.number, precisions))
        return dict.fromkeys(precisions, seconds[0])

    monkeypatch.setattr(compilation, "choose_device", lambda config: torch.device("cuda"))
    monkeypatch.setattr(compilation, "time_steps", time_steps)
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: name)
    return seconds, timed


def build(*words: str):
    run = assemble(compose([*TINY, "precision=32", "callbacks=none", *words]))
    assert run.config.training.compile == "auto"
    return run


@pytest.mark.parametrize(("step", "chosen"), [(100.0, True), (0.01, False)])
def test_the_length_of_the_run_decides(at, gpu, step, chosen):
    seconds, timed = gpu
    seconds[0] = step
    run = build("training.epochs=2", "training.steps_per_epoch=3")
    line = settle_compile(run)
    assert run.config.training.compile is chosen
    assert run.module.hparams["config"]["training"]["compile"] is chosen
    assert line.startswith("on;" if chosen else "off;") and f"about {6 * step:.0f} s" in line
    assert timed == [(0, ("32",))]


def test_a_phase_on_stored_features_does_not_count(at, gpu):
    """Three phases; the head alone trains on features. The phase of the module stays."""
    _, timed = gpu
    run = build(*TWO_UNFREEZES)
    line = settle_compile(run)
    first = [phase.number for phase, start, end in run.module.schedule.list_spans(99)
             if run.phases.cut(run.module, run.data, phase)]  # fmt: skip
    assert {number for number, _ in timed} == {0, 1, 2} - set(first)
    assert run.module.phase.number == 0 and line


def test_the_time_saved_must_exceed_the_cost(at):
    module = build().module
    layers = 4  # two convolutions and two layers of the head
    cost = compilation.START + compilation.EACH * layers
    least = cost / compilation.SAVES
    assert decide_compile(module, 1.001 * least, 1)[0] and not decide_compile(module, least, 1)[0]
    assert (
        not decide_compile(module, 1.5 * least, 2)[0] and decide_compile(module, 2.1 * least, 2)[0]
    )
    assert decide_compile(module, 0.0, 0) == (False, "off; no phase trains on images")


def test_auto_is_off_on_a_cpu_and_nothing_is_timed(at, monkeypatch):
    monkeypatch.setattr(compilation, "time_steps", None)
    run = build()
    assert settle_compile(run) == "" and run.config.training.compile is False


def test_graphs_need_a_gpu(at, capsys):
    assert main(["train", *TINY, "training.compile=graphs", "run_dir=run"]) == 2
    assert "training.compile=graphs needs an NVIDIA GPU" in capsys.readouterr().err
    assert not (at / "run").exists()


def test_graphs_and_accumulated_gradients_exclude_each_other(at, gpu):
    config = compose([*TINY, "training.compile=graphs", "training.accumulate=2"])
    with pytest.raises(UserError, match=r"graphs needs training\.accumulate=1"):
        check_graphs(config)


def test_plan_says_what_train_would_do(at, gpu, capsys, monkeypatch):
    monkeypatch.setattr(
        "convlens.experiment.devices.time_steps", lambda *_, **__: {"32": 100.0, "bf16": 100.0}
    )
    assert main(["plan", *TINY, "precision=32", "callbacks=none"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "│ compile" in line]
    assert "on; the steps take about" in line


@pytest.mark.slow
def test_compiled_training_ends_near_the_plain_one(at):
    """With the real compiler on the processor; the weights differ by rounding."""
    ends = []
    for number, value in enumerate(("true", "false")):
        words = [*TINY, "callbacks=none", f"training.compile={value}", "optimizer=sgd"]
        assert main(["train", *words, f"run_dir=run{number}"]) == 0
        config = yaml.safe_load((at / f"run{number}" / "config.yaml").read_text())
        assert config["training"]["compile"] is (value == "true")
        checkpoint = at / f"run{number}" / "checkpoints" / "last.ckpt"
        ends.append(torch.load(checkpoint, weights_only=True)["state_dict"])
    assert ends[0].keys() == ends[1].keys()
    for name, weights in ends[0].items():
        torch.testing.assert_close(weights, ends[1][name], rtol=1e-4, atol=1e-5)
