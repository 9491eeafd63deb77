"""`make export` of a network for images with several classes: sigmoids, thresholds, many maps."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convlens
from convlens.cli.main import main
from convlens.data.sources.shapes import draw_shapes
from convlens.experiment.export import export_network
from convlens.export import onnx_file
from convlens.export.facts import read_facts
from convlens.serving.page import answer
from support.places import ROOT
from support.tiny import TINY

CLASSES = 5
(SCRIPT,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)


@pytest.fixture(scope="module")
def best(tmp_path_factory, pictures) -> Path:
    home = tmp_path_factory.mktemp("several") / "run"
    words = [*TINY, "exp=multi_label", "data.pictures=120", "data.size=24", "training.epochs=1"]
    assert main(["train", f"run_dir={home}", *words, "callbacks=none"]) == 0
    file = home / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    explainer = convlens.load(file, device="cpu")
    shares = explainer.probabilities(torch.stack([explainer.read(each) for each in pictures]))
    # each class is predicted for another number of the images, up to all of them
    ranked = torch.cat([torch.zeros(1, CLASSES), shares.sort(0).values])
    middles = [(ranked[2 * k, k] + ranked[2 * k + 1, k]) / 2 for k in range(CLASSES)]
    content["state_dict"]["thresholds"] = torch.stack(middles)
    torch.save(content, file)
    return file


@pytest.fixture(scope="module")
def thresholds(best) -> list[float]:
    return torch.load(best, weights_only=True)["state_dict"]["thresholds"].tolist()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    drawn = draw_shapes(12, size=24, channels=3, classes=CLASSES, seed=4, stream=2, objects=2)
    for number, pixels in enumerate(drawn["images"]):
        Image.fromarray(pixels).resize((50, 40)).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def file(best, tmp_path_factory) -> Path:
    """The ONNX file, with its maps."""
    pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    home = tmp_path_factory.mktemp("onnx")
    assert main(["export", f"ckpt={best}", "cam=true", f"run_dir={home}"]) == 0
    return home / "network.onnx"


def predict(network: Path, folder: Path, home: Path) -> list[dict[str, str]]:
    assert main(["predict", f"ckpt={network}", f"images={folder}", f"run_dir={home}"]) == 0
    with (home / "predictions.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_predictions_of_the_file_are_those_of_the_checkpoint(best, file, pictures, tmp_path):
    folder = pictures[0].parent
    ours, theirs = predict(best, folder, tmp_path / "a"), predict(file, folder, tmp_path / "b")
    assert len({row["predicted"] for row in ours}) > 2
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys() and row["predicted"] == other["predicted"]
        for key, value in row.items():
            if key.startswith(("probability/", "confidence")):
                assert float(other[key]) == pytest.approx(float(value), abs=1e-5)


def test_the_outputs_are_sigmoids_and_the_thresholds_are_in_the_file(best, file, thresholds):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    about = session.get_modelmeta().custom_metadata_map
    assert about["activation"] == "sigmoid" and about["convlens_format"] == "2"
    assert json.loads(about["thresholds"]) == thresholds
    limits = ", ".join(f"{limit:.3g}" for limit in thresholds)
    assert f"a class is predicted from its threshold on: {limits}\n" in about["model_card"]
    network = convlens.load(best, device="cpu").network
    for count in (1, 3):
        images = torch.rand(count, 3, 24, 24)
        shares, logits, maps = session.run(None, {"images": images.numpy()})
        expected = network(images).detach()
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        np.testing.assert_allclose(shares, 1 / (1 + np.exp(-expected.numpy())), atol=1e-6)
        assert maps.shape[:2] == (count, CLASSES)


def test_every_predicted_class_has_the_checkpoints_maps(best, file, pictures):
    ours, theirs = convlens.load(best, device="cpu"), convlens.load(file)
    counts, seen = set(), False
    for picture in pictures[::2]:
        one, other = (each.explain(picture, only="grad_cam,occlusion") for each in (ours, theirs))
        assert one.targets == other.targets and one.predicted == other.predicted
        counts.add(len(one.targets))
        for maps in ("grad_cam", "maps"):
            assert getattr(one, maps).keys() == getattr(other, maps).keys()
            for name, values in getattr(one, maps).items():
                theirs_values = getattr(other, maps)[name]
                torch.testing.assert_close(theirs_values, values, atol=1e-4, rtol=1e-4)
                seen |= bool(values.any())
        assert set(other.panels) == {"grad_cam", "occlusion"}
    assert len(counts) > 1 and seen
    name = ours.class_names[CLASSES - 1]  # any class, predicted or not
    one, other = (
        each.explain(pictures[0], only="grad_cam", target=name).grad_cam for each in (ours, theirs)
    )
    for layer, values in one.items():
        torch.testing.assert_close(other[layer], values, atol=1e-4, rtol=1e-4)


def test_the_script_of_the_docs_prints_what_predict_writes(
    file, pictures, tmp_path, monkeypatch, capsys
):
    """``tests/docs/test_export_script.py`` runs it in a process of its own."""
    rows = predict(file, pictures[0].parent, tmp_path / "out")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["classify.py", str(file), *map(str, pictures)])
    exec(compile(SCRIPT, "classify.py", "exec"), {})
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in printed] == [[row["file"], row["predicted"]] for row in rows]
    for line, row in zip(printed, rows, strict=True):
        assert float(line[2]) == pytest.approx(float(row["confidence"]), abs=2e-6)


def test_the_page_names_the_predicted_classes(best, file, pictures):
    for network in (best, file):
        explainer = convlens.load(network, device="cpu")
        for method in ("grad_cam", "occlusion"):
            classes, overlay = answer(explainer, str(pictures[0]), method)
            found = explainer.explain(pictures[0], only=method)
            names = ", ".join(found.class_names[k] for k in found.predicted)
            assert list(classes.items()) == found.top(5) and names
            assert overlay.caption.endswith(f"Predicted: {names}.")
        explainer.thresholds[:] = 1.0
        assert answer(explainer, str(pictures[0]), "occlusion")[1].caption.endswith(
            "Predicted: none of the classes."
        )


@pytest.mark.parametrize(
    "kind", ["safetensors", pytest.param("torch_export", marks=pytest.mark.slow)]
)
def test_other_formats_say_the_same(best, thresholds, kind, tmp_path):
    from safetensors import safe_open

    cam = kind == "torch_export"
    export = export_network(str(best), [], kind=kind, cam=cam, run_dir=str(tmp_path), count=5)
    assert export.facts.thresholds == tuple(thresholds)
    assert export.check.same == export.check.images == 5
    if kind == "safetensors":
        with safe_open(export.file, "pt") as content:
            assert read_facts(content.metadata(), "the file") == export.facts
        return
    texts = {"metadata.json": ""}
    program = torch.export.load(export.file, extra_files=texts).module()
    assert read_facts(json.loads(texts["metadata.json"]), "the file") == export.facts
    images = torch.rand(3, 3, 24, 24)
    shares, logits, maps = program(images)
    torch.testing.assert_close(shares, logits.sigmoid())
    torch.testing.assert_close(logits, convlens.load(best, device="cpu").network(images))
    assert maps.shape[:2] == (3, CLASSES)


@pytest.mark.slow
def test_timms_network_computes_the_same_logits(tmp_path):
    import timm

    words = [
        "exp=finetune_timm", "data=shapes", "data.objects=2", "data.classes=5", "data.pictures=60",
        "data.size=32", "model.name=resnet10t", "model.weights=none", "finetune=none",
        "training.loss=multi_label", "training.epochs=1", "training.batch_size=16",
        "callbacks=none", "precision=32", "trainer=cpu",
    ]  # fmt: skip
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    export = export_network(str(best), [], kind="timm", run_dir=str(tmp_path / "out"), count=5)
    explainer = convlens.load(best, device="cpu")
    texts = json.loads((export.file / "metadata.json").read_text())
    assert read_facts(texts, "it").thresholds == tuple(explainer.thresholds.tolist())
    network = timm.create_model(f"local-dir:{export.file}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(explainer.network.normalise(images))
    torch.testing.assert_close(logits.sigmoid(), explainer.probabilities(images))


def test_a_file_that_predicts_otherwise_is_not_written(best, tmp_path, monkeypatch):
    """The check compares sigmoids: softmaxes of the same logits are refused."""
    from convlens.core.errors import UserError
    from convlens.experiment import export as exporting

    monkeypatch.setattr(exporting, "Answers", lambda network, *_, **__: _answers(network))
    with pytest.raises(UserError, match="probabilities of the file and of the network differ"):
        export_network(str(best), [], kind="torch_export", run_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _answers(network):
    from convlens.export.answers import Answers

    return Answers(network)


def test_the_installed_runtime_reads_it(file):
    onnx = pytest.importorskip("onnx", reason="comes with the extra `export`")
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.output] == ["probabilities", "logits", "grad_cam"]
    assert onnx_file.OPSET in [each.version for each in model.opset_import]
