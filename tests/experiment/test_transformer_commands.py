"""Every command with a run of a ViT and with one of a Swin, on 60 drawn images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import convlens
from convlens.cli.main import main
from convlens.explain.attention import attention_maps
from support.places import ROOT
from support.tiny import TINY_VIT

pytestmark = pytest.mark.slow

OF_NAME = ("model.name", "model.options")
WORDS = [
    *(word for word in TINY_VIT if not word.startswith((*OF_NAME, "data.size"))),
    "data.size=32", "training.epochs=2", "looking.seconds=600", "looking.first_seconds=600",
    "looking.last_seconds=600",
]  # fmt: skip
SWIN = "{patch_size: 2, window_size: 4, embed_dim: 16, depths: [2, 2], num_heads: [2, 4]}"
NETWORKS = {
    "vit": [word for word in TINY_VIT if word.startswith(OF_NAME)],
    "swin": ["model.name=swin_tiny_patch4_window7_224", f"model.options={SWIN}"],
}
PHOTOGRAPHS = ROOT / "tests" / "photographs"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("transformers")
    for name, words in NETWORKS.items():
        assert main(["train", f"run_dir={home / name}", *WORDS, *words]) == 0
    return {name: home / name for name in NETWORKS}


@pytest.fixture(params=NETWORKS)
def run(request, runs) -> Path:
    return runs[request.param]


def find_best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def load_network(checkpoint: Path) -> torch.nn.Module:
    return convlens.load(checkpoint, device="cpu").network


def read_probes(run: Path, names) -> torch.Tensor:
    """The probes as the network gets them."""
    pixels = [np.asarray(Image.open(run / "probes" / f"{name}.png")) for name in names]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255


def test_the_looks_of_a_run(run):
    stored, is_vit = convlens.open_run(run), run.name == "vit"
    kinds = {tag.partition("/")[0] for tag in stored.pictures}
    assert {"grad_cam", "grad_cam_means", "predictions", "layers"} <= kinds
    assert ("legrad" in kinds) == is_vit
    shown = {tag.split("/")[1] for tag in stored.pictures if tag.startswith("layers/")}
    assert {"activations", "filters", "attention", "depth"} <= shown
    assert not stored.summary["failures"]
    sparse = [key for key in stored.rows[-1] if key.startswith("explain/sparsity/")]
    assert sparse and all("mlp.act" in key for key in sparse)
    kept, network = stored.maps("attention", epoch=2), load_network(run / "checkpoints/last.ckpt")
    maps = attention_maps(network, read_probes(run, kept.probes)).maps
    for layer, found in kept.layers.items():
        small = F.adaptive_avg_pool2d(maps[layer], min(14, maps[layer].shape[-1])).numpy()
        largest = small.max(axis=(-2, -1), keepdims=True)
        heads = small.shape[1]
        np.testing.assert_allclose(found[:, :heads] / largest, small / largest, atol=2e-3)
        assert np.isnan(found[:, heads:]).all()


def test_eval_predict_report_and_explain(run, tmp_path):
    best = find_best(run)
    assert main(["eval", f"ckpt={best}"]) == 0
    (results,) = run.rglob("results.json")
    tested = json.loads(results.read_text(encoding="utf-8"))
    summary = convlens.open_run(run).summary["test"]
    assert str(summary["accuracy"])[:6] in json.dumps(tested)
    assert main(["predict", f"ckpt={best}", f"images={PHOTOGRAPHS}", f"run_dir={tmp_path}"]) == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(encoding="utf-8")))
    assert [Path(row["file"]).name for row in rows] == ["cat.jpg", "coffee.jpg"]
    for row in rows:
        shares = [float(value) for key, value in row.items() if key.startswith("probability/")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    home, cat = tmp_path / "explained", PHOTOGRAPHS / "cat.jpg"
    only = "grad_cam,attention,occlusion,activations,filters"
    assert main(["explain", f"ckpt={best}", f"image={cat}", f"only={only}", f"run_dir={home}"]) == 0
    drawn = {file.stem for file in home.rglob("*.jpg")} | {f.parent.name for f in home.rglob("*")}
    assert {"grad_cam", "attention", "occlusion", "activations", "filters"} <= drawn
    assert main(["report", f"run={run}"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "layers/attention" in page and len(page) < 3_000_000


def test_both_are_compared(runs, tmp_path):
    words = f"runs={runs['vit']} {runs['swin']}"
    assert main(["compare", words, f"run_dir={tmp_path}"]) == 0
    assert '"title":"Grad-CAM"' in (tmp_path / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors", "timm"])
def test_an_exported_network_gives_the_same_logits(run, kind, tmp_path):
    if kind == "onnx":
        runtime = pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
        pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    best = find_best(run)
    assert main(["export", f"ckpt={best}", f"format={kind}", f"run_dir={tmp_path}"]) == 0
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = load_network(best)
    with torch.no_grad():
        expected = network(images)
        if kind == "onnx":
            session = runtime.InferenceSession(str(tmp_path / "network.onnx"))
            (found,) = session.run(["logits"], {"images": images.numpy()})
            found = torch.from_numpy(found)
        elif kind == "torch_export":
            _, found = torch.export.load(tmp_path / "network.pt2").module()(images)
        elif kind == "timm":
            import timm

            theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
            found = theirs(network.normalise(images))
        else:
            from safetensors.torch import load_file

            state = load_file(tmp_path / "network.safetensors")
            network.load_state_dict(state)
            found = network(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_run_starts_from_an_earlier_one_at_another_size(runs, tmp_path, capsys):
    words = [word for word in WORDS if word != "data.size=32"]
    words = [word for word in words if not word.startswith(("model.weights", "training.epochs"))]
    words += ["data.size=48", f"model.weights={find_best(runs['vit'])}", "training.epochs=1"]
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *words, *NETWORKS["vit"], "callbacks=none"]) == 0
    assert "pos_embed resized by timm to this image size, base and head" in capsys.readouterr().out
