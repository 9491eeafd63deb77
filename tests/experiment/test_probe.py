"""``exp=probe_dinov2`` on weights that a hub on this machine serves, resampled to other images."""

from __future__ import annotations

import hashlib
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from convlens.cli.main import main
from convlens.config.checks import restore_config
from convlens.experiment.data import build_data
from convlens.experiment.networks import restore_module
from convlens.training.survival.checkpoint import read_checkpoint
from support.served import Quiet

NAME = "vit_small_patch14_reg4_dinov2"
SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2}


class Hub(Quiet):
    """Tells the checksum of the file, as the hub does."""

    def end_headers(self):
        file = Path(self.translate_path(self.path))
        if file.is_file():
            self.send_header("ETag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


@pytest.fixture
def weights(at, monkeypatch):
    """Random weights for images of 70 pixels, served as timm's; returns their file."""
    folder = at / "served" / "timm" / f"{NAME}.lvd142m" / "resolve" / "main"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = timm.create_model(NAME, img_size=70, num_classes=0, **SMALL).state_dict()
    save_file({key: value + 0.1 * torch.randn_like(value) for key, value in state.items()},
              folder / "model.safetensors")  # fmt: skip
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(at / "served")))
    Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        f"http://127.0.0.1:{running.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(at / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(at / "hub"))
    yield folder / "model.safetensors"
    running.shutdown()
    running.server_close()


def test_a_linear_probe_is_one_layer_on_stored_class_token_and_mean_of_patches(weights, at):
    words = ["exp=probe_dinov2", "data=shapes", "data.pictures=60", "data.size=56"]
    words += [f"model.options.{key}={value}" for key, value in SMALL.items()]
    words += ["finetune.phases.0.epochs=3", "precision=32", "trainer=cpu", "callbacks=none"]
    home = at / "run"
    assert main(["train", f"run_dir={home}", *words]) == 0
    assert (home / "train.log").read_text().count("features of") == 3  # of all three splits
    content = read_checkpoint(home / "checkpoints" / "last.ckpt")
    module = restore_module(content, "the checkpoint").eval()
    moments = content["optimizer_states"][0]["state"]
    shapes = sorted(tuple(value["exp_avg"].shape) for value in moments.values())
    assert shapes == [(5,), (5, 2 * SMALL["embed_dim"])]
    # timm's own network, on the same file, for images of this size
    network = timm.create_model(
        NAME, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, img_size=56,
        num_classes=0, **SMALL,
    ).eval()  # fmt: skip
    data = build_data(restore_config(content["hyper_parameters"]["config"], "the checkpoint"))
    (batch,) = data.evaluation_loader("validation")
    images = data.finish(batch)["image"]
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = network.forward_features((images - mean) / std)
        expected = torch.cat((tokens[:, 0], tokens[:, 5:].mean(dim=1)), dim=1)
        features = module.model.features(images, len(module.model.backbone.link_names))
        np.testing.assert_allclose(features.flatten(1), expected, atol=1e-5)
        logits = expected @ module.model.head.logits.weight.T + module.model.head.logits.bias
        np.testing.assert_allclose(module(images), logits, atol=1e-5)
