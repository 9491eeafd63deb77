"""A checkpoint that a GPU, or several machines, trained is asked on a machine without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.experiment import devices as machine
from convlens.experiment.inputs import EXAMPLE
from support.tiny import TINY

WORDS = [*TINY, "callbacks=none", "logger.tensorboard=false", "scheduler=constant"]
GPUS = {"accelerator": "gpu", "devices": 4, "strategy": "ddp", "num_nodes": 2}
CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("elsewhere") / "run"
    assert main(["train", f"run_dir={home}", *WORDS, "training.epochs=2"]) == 0
    return home


def moved(run: Path, to: Path, processes: int = 1, **config) -> Path:
    """The run as another machine would have left it: in config.yaml and in every checkpoint."""
    home = Path(shutil.copytree(run, to / "run"))
    for file in (home / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        told = content["hyper_parameters"]["config"]
        told["trainer"].update(config.get("trainer", {}))
        told["training"].update(config.get("training", {}))
        told["precision"] = config.get("precision", "32")
        content["convlens_processes"] = processes
        torch.save(content, file)
    written = yaml.safe_load((home / "config.yaml").read_text())
    written["trainer"].update(config.get("trainer", {}))
    written["training"].update(config.get("training", {}))
    written["precision"] = config.get("precision", "32")
    (home / "config.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    (home / "summary.json").unlink()
    return home


@pytest.mark.skipif(CUDA or MPS, reason="this machine has such devices")
@pytest.mark.parametrize(
    ("trainer", "precision", "said"),
    [
        ({"accelerator": "gpu", "devices": 1}, "32", "accelerator=gpu devices=1 precision=32"),
        (GPUS, "16", "accelerator=gpu devices=4 num_nodes=2 precision=16"),
        ({"accelerator": "mps", "devices": 1}, "bf16", "accelerator=mps"),
        ({"accelerator": "cuda", "devices": "0,3", "strategy": "fsdp"}, "32", "accelerator=cuda"),
        ({"accelerator": "auto", "devices": "auto", "strategy": "ddp", "num_nodes": 4}, "32",
         "num_nodes=4"),
        ({"accelerator": "auto"}, "16", "precision=16"),
        ({"accelerator": "tpu", "devices": [0, 1]}, "32", "accelerator=tpu"),
    ],
)  # fmt: skip
def test_eval_wherever_it_is(run, tmp_path, capsys, trainer, precision, said):
    home = moved(run, tmp_path, trainer=trainer, precision=precision)
    capsys.readouterr()
    assert main(["eval", f"run={home}"]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    (line,) = [line for line in out.splitlines() if "not available on this machine" in line]
    assert said in line and "one device (cpu)" in line
    used = "bf16" if precision == "bf16" else "32"
    assert f"precision={used}" in line


@pytest.mark.skipif(CUDA or MPS, reason="this machine has such devices")
def test_every_command_that_asks_a_checkpoint(run, tmp_path, capsys):
    home = moved(run, tmp_path, trainer=GPUS, precision="16")
    ckpt = f"ckpt={home / 'checkpoints' / 'best.ckpt'}"
    images = EXAMPLE / "pictures"
    image = next(file for file in sorted(images.rglob("*")) if file.is_file())
    words = [["predict", ckpt, f"images={images}", f"run_dir={tmp_path / 'p'}"]]
    words += [["explain", ckpt, f"image={image}", f"run_dir={tmp_path / 'e'}", "only=grad_cam"]]
    words += [["plan", ckpt], ["report", f"run={home}"]]
    for each in words:
        capsys.readouterr()
        assert main(each) == 0, (each, capsys.readouterr())
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err


@pytest.mark.skipif(CUDA or MPS, reason="this machine has such devices")
def test_one_gpus_run_is_resumed_on_the_processor_and_that_of_four_too(run, tmp_path, capsys):
    one = moved(run, tmp_path / "one", trainer={"accelerator": "gpu", "devices": 1}, precision="16")
    assert main(["resume", f"run={one}", "training.epochs=3"]) == 0
    assert "precision=16 is not available on this machine" in capsys.readouterr().out
    # what the run asks for stays, so that it can go back
    config = yaml.safe_load((one / "config.yaml").read_text())
    assert (config["trainer"]["accelerator"], config["precision"]) == ("gpu", "16")
    four = moved(run, tmp_path / "four", processes=8, trainer=GPUS)
    assert main(["resume", f"run={four}", "training.epochs=3"]) == 0
    said = capsys.readouterr().out
    assert "number of processes: 1 instead of 8" in said


@pytest.mark.parametrize("key", ["batch_size_is", "lr_is"])
def test_what_depends_on_the_number_of_processes_is_not_continued_by_another(
    run, tmp_path, capsys, key
):
    home = moved(run, tmp_path, processes=8, training={key: "per_device"})
    assert main(["resume", f"run={home}", "training.epochs=3"]) == 2
    said = capsys.readouterr().err
    assert (
        f"with training.{key}=per_device the number of processes matters: it was 8, not 1" in said
    )


@pytest.mark.skipif(CUDA or MPS, reason="this machine has such devices")
@pytest.mark.parametrize("trainer", ["gpu", "mps", "ddp"])
def test_a_new_run_is_refused_in_a_line_and_no_run_is_left(tmp_path, capsys, trainer):
    words = [*WORDS, f"trainer={trainer}", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("convlens: trainer.accelerator=") and "trainer=auto" in line
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("there", "options", "precision", "expected"),
    [
        # kinds and how many of them; what is asked; what is given
        ({"cuda": 2}, ("gpu", 2, 1), "16", ("gpu", 2, "16")),
        ({"cuda": 2}, ("gpu", 4, 1), "16", ("auto", 1, "16")),
        ({"cuda": 2}, ("gpu", [1], 1), "bf16", ("gpu", [1], "bf16")),
        ({"cuda": 2}, ("cuda", [2], 1), "32", ("auto", 1, "32")),
        ({"cuda": 2}, ("gpu", "auto", 1), "32", ("gpu", "auto", "32")),
        ({"cuda": 2}, ("mps", 1, 1), "32", ("auto", 1, "32")),
        ({"mps": 1}, ("cuda", 1, 1), "16", ("auto", 1, "16")),
        ({"mps": 1}, ("auto", "auto", 1), "64", ("cpu", "auto", "64")),
        ({}, ("cpu", 2, 1), "32", ("cpu", 2, "32")),
        ({}, ("cpu", 2, 1), "16", ("cpu", 2, "32")),
        ({}, ("cpu", 1, 2), "32", ("auto", 1, "32")),
    ],
)
def test_devices_of_other_machines(monkeypatch, there, options, precision, expected):
    class Kind:
        def __init__(self, name: str):
            self.count = {"cpu": 1, **there}.get(name, 0)

        def is_available(self) -> bool:
            return self.count > 0

        def auto_device_count(self) -> int:
            return self.count

    monkeypatch.setattr(machine, "_get_accelerator", Kind)
    names = ("accelerator", "devices", "num_nodes")
    values = {**dict(zip(names, options, strict=True)), "strategy": "ddp"}
    asked = compose([]).trainer.replace(**values)
    found, used, note = machine.adapt_devices(asked, precision)
    assert (found.accelerator, found.devices, used) == expected
    assert bool(note) == ((found, used) != (asked, precision))
    assert found.num_nodes == (1 if note else options[2])
