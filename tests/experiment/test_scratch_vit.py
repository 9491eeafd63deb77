"""``exp=scratch_vit`` learns ``shapes``; its body is timm's own vision transformer."""

from __future__ import annotations

import json

import pytest
import timm
import torch

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.sources.shapes import draw_shapes
from convlens.experiment.module import build_module
from convlens.experiment.networks import load
from convlens.explain import choose_layers, grad_cam, legrad
from convlens.explain.scores import pointing_game
from convlens.export.timm_folder import build_timm_network


def test_the_network_is_timms_on_the_map_of_the_stem():
    """Written out: stem, projection, position embeddings, timm's blocks, mean, norm, head."""
    words = ["exp=scratch_vit", "model.options.depth=2", "model.options.stem=[4,6,8]"]
    module = build_module(compose(words), list("abcde")).double().eval()
    backbone, head = module.model.backbone, module.model.head
    assert {type(block) for block in backbone.blocks} == {timm.models.vision_transformer.Block}
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    values = (images - 0.5) / 0.5
    for block in backbone.embed.patch_embed.backbone:
        values = torch.relu(block.norm(block.conv(values)))
        values = values.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    values = torch.einsum(
        "bchw,oc->bhwo", values, backbone.embed.patch_embed.proj.weight[..., 0, 0]
    )
    values = (values + backbone.embed.patch_embed.proj.bias).flatten(1, 2)
    values = values + backbone.embed.pos_embed
    assert values.shape == (3, 64, 96)
    for block in backbone.blocks:
        values = block(values)
    with torch.no_grad():
        expected = head.logits(head.norm(values.mean(dim=1)))
        torch.testing.assert_close(module(images), expected, rtol=0, atol=1e-12)


def test_other_sizes_and_options_are_those_of_timm():
    words = ["exp=scratch_vit", "data.size=96", "model.options.embed_dim=48"]
    module = build_module(compose(words), list("abcde"))
    assert module.model.backbone.embed.pos_embed.shape == (1, 144, 48)
    with pytest.raises(UserError, match="stem_vit has no option steam; did you mean stem"):
        build_module(compose(["exp=scratch_vit", "model.options.steam=[8]"]), list("abcde"))


def test_a_network_that_timm_has_in_this_process_only_is_not_exported_for_it():
    config = compose(["exp=scratch_vit"])
    network = build_module(config, list("abcde")).model
    with pytest.raises(UserError, match="the stem_vit network of this run is not a timm network"):
        build_timm_network(network, config.model, 64)


@pytest.mark.slow
def test_it_learns_shapes_within_five_epochs_and_its_maps_point_at_them(tmp_path):
    """Chance is 0.2; a transformer on plain patches of 8 or 16 pixels has 0.22 after three.

    The peak of Grad-CAM is on the object three times as often as a random pixel.
    """
    home = tmp_path / "run"
    words = ["exp=scratch_vit", "training.epochs=5", "callbacks=none", "precision=32"]
    assert main(["train", f"run_dir={home}", *words, "trainer=cpu"]) == 0
    summary = json.loads((home / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.75
    network = load(home / "checkpoints" / "best.ckpt", device="cpu").network
    drawn = draw_shapes(200, size=64, channels=3, classes=5, seed=0, stream=2, objects=1)
    images = torch.from_numpy(drawn["images"]).permute(0, 3, 1, 2) / 255
    masks, predicted = torch.from_numpy(drawn["masks"]), torch.full((200,), -1)
    (layer,) = choose_layers(network, "auto", "grad_cam", example=images[:1])
    maps = grad_cam(network, images, predicted, [layer], batch=50).maps[layer][:, 0]
    assert pointing_game(maps, masks).nanmean() >= 2 * masks.float().mean()
    maps = legrad(network, images, predicted, batch=50).maps[:, 0]
    assert pointing_game(maps, masks).nanmean() >= 1.5 * masks.float().mean()


# the mark is learned within 340 steps; turned images would often lose it
MARKED = [
    "exp=scratch_vit", "data.pictures=2400", "data.augment.rotation_degrees=0",
    "training.epochs=3", "training.batch_size=16", "precision=32", "trainer=cpu", "seed=1",
    "looking={seconds: 100, first_seconds: 100, last_seconds: 100}",
    *(f"callbacks.{name}=null" for name in (
        "activation_grids", "augmentation_preview", "class_means", "confusion_matrix", "grad_cam",
        "learning_curves", "mistakes", "occlusion_maps", "filter_visuals", "reliability",
    )),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mark", [1.0, 0.0])
def test_a_mark_that_reveals_the_class_raises_an_alarm(tmp_path, mark):
    """Grad-CAM of the last block finds the corner, although every token has seen it."""
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *MARKED, f"data.shortcut={mark}"]) == 0
    summary = json.loads((home / "summary.json").read_text())
    raised = [line for line in summary["alarms"] if line.startswith("evidence")]
    if not mark:
        assert raised == []
    else:
        assert any("evidence for 5 classes, each in the same place" in line for line in raised)
        assert summary["val"]["accuracy"] > 0.9 and summary["test"]["accuracy"] < 0.5
