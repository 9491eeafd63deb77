"""An explanation that raises: said once, kept in the log and the summary; training is untouched."""

from __future__ import annotations

import json

from convlens.callbacks import GradCam

from convlens import callbacks
from convlens.cli.main import main
from support.lively import checkpoint
from support.tiny import TINY

FEW = [*TINY, "training.epochs=3"]
# what else is drawn does not matter here
OTHERS = ("filter_visuals", "activation_grids", "class_means", "occlusion_maps", "learning_curves",
          "reliability")  # fmt: skip
RAISING = ["looking.seconds=100", *(f"callbacks.{name}=null" for name in OTHERS)]


class Broken(GradCam):
    """Grad-CAM that fails behind its first picture, as memory or a library may let it."""

    def pictures(self, look):
        yield next(iter(super().pictures(look)))
        raise ZeroDivisionError("this look divides by zero")


def test_an_explanation_that_raises_is_said_once_and_training_goes_on(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(callbacks, "GradCam", Broken)  # configs name convlens's own alone
    home, without = tmp_path / "run", tmp_path / "without"
    assert main(["train", f"run_dir={without}", *FEW, "callbacks=none"]) == 0
    capsys.readouterr()
    assert main(["train", f"run_dir={home}", *FEW, *RAISING]) == 0
    out, err = capsys.readouterr()
    line = "Broken failed at epoch 0: ZeroDivisionError: this look divides by zero"
    assert out.count(f"{line}; training continues") == 1
    assert out.count("ZeroDivisionError") == 1
    assert out.count("! Broken failed at epoch 0; the reason is in") == 1  # the closing lines
    assert "Traceback" not in out + err
    log = (home / "train.log").read_text()
    assert "Traceback" in log and "in pictures" in log
    assert log.count("Broken failed at epoch") >= 4  # the log has them all
    assert json.loads((home / "summary.json").read_text())["failures"] == [line]
    one, other = checkpoint(without), checkpoint(home)
    assert all((other["state_dict"][n] == v).all() for n, v in one["state_dict"].items())
    assert one["convlens_record"] == other["convlens_record"]
    assert len(list((home / "explanations").rglob("*.jpg"))) >= 1
