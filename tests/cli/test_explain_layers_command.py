"""`explain layers=…` and `only=filters`; a wrapped network whose layers hold channels last."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from captum.attr import LayerActivation, LayerGradCam
from PIL import Image
from torch import nn

import convlens
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.experiment import methods
from convlens.experiment.inputs import EXAMPLE
from support.places import ROOT

CAT = ROOT / "tests" / "photographs" / "cat.jpg"
PICTURE = f"image={sorted((EXAMPLE / 'pictures').iterdir())[0]}"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("convlens.experiment.methods._UNITS", 2)
    monkeypatch.setitem(methods._ASCENT, "steps", 2)


def tags(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg")}


def test_explain_draws_the_layers_that_are_named_and_the_filters_once(tmp_path, capsys):
    network = convlens.load(EXAMPLE / "shapes.ckpt", device="cpu").network
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    first, last = convolutions[0], convolutions[-1]
    words = [PICTURE, f"layers={last},{first}", f"run_dir={tmp_path / 'out'}"]
    assert main(["explain", *words, "only=grad_cam,activations,filters"]) == 0
    picture = Path(PICTURE.partition("=")[2]).stem
    assert tags(tmp_path / "out") == {
        f"{picture}/grad_cam.jpg",
        f"{picture}/layers/activations/{first}.jpg",
        f"{picture}/layers/activations/{last}.jpg",
        f"layers/filters/{first}.jpg",
        f"layers/filters/{last}.jpg",
    }
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    capsys.readouterr()


def test_filters_need_no_picture(tmp_path, capsys):
    words = [f"ckpt={EXAMPLE / 'shapes.ckpt'}", "only=filters", "layers=*conv*"]
    assert main(["explain", *words, f"run_dir={tmp_path / 'out'}"]) == 0
    drawn = tags(tmp_path / "out")
    assert drawn and all(name.startswith("layers/filters/") for name in drawn)
    capsys.readouterr()


def test_the_page_tells_of_no_picture_that_is_on_it(tmp_path, capsys):
    words = [PICTURE, f"run_dir={tmp_path / 'out'}", "only=grad_cam,filters", "layers=*conv*"]
    assert main(["explain", *words]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>filters</h2>" in page and "did not fit on this page" not in page
    capsys.readouterr()


def test_a_wrapped_networks_filters_are_the_same_beside_a_picture():
    """Its normalisation comes before the network once, not once more for the filters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
        )  # fmt: skip
    wrapped = convlens.wrap(network, ["cat", "dog"], size=32, normalisation="imagenet")
    alone = wrapped.filters("2", pictures=[CAT])
    beside = wrapped.explain(Image.open(CAT), only="filters", layers="2").panels
    assert set(alone) == set(beside) == {"layers/filters/2"}
    assert (alone["layers/filters/2"] == beside["layers/filters/2"]).all()


def test_layers_that_cannot_be_drawn_are_named_in_one_line(tmp_path, capsys):
    for words, answer in [
        (["layers=conv99", "only=grad_cam"], "matches 'conv99'"),
        (["layers=head.logits", "only=grad_cam"], "layer 'head.logits' returns"),
        (["layers=head", "only=filters"], "layers=head: it has no filters"),
    ]:
        assert main(["explain", PICTURE, *words, f"run_dir={tmp_path / words[0]}"]) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert answer in lines[-1] and len([x for x in lines if x.startswith("convlens:")]) == 1


def test_a_wrapped_convnext_is_drawn_along_its_channels():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.models.ConvNeXt(
            num_classes=2, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24), ls_init_value=0.5
        ).eval()
    layers = ["stages.0.blocks.0.norm", "stages.1.blocks.0.conv_dw"]
    wrapped = convlens.wrap(network, ["cat", "dog"], size=(64, 96))
    found = wrapped.explain(CAT, only="grad_cam,activations", layers=layers, target="dog")
    assert {k: tuple(v.shape) for k, v in found.activations.items()} == {
        layers[0]: (8, 16, 24),
        layers[1]: (16, 8, 12),
    }
    image = found.picture[None]
    raw = LayerActivation(network, network.get_submodule(layers[0])).attribute(image)
    torch.testing.assert_close(
        found.activations[layers[0]], raw[0].permute(2, 0, 1), rtol=1e-4, atol=1e-5
    )
    theirs = LayerGradCam(network, network.get_submodule(layers[1])).attribute(
        image, 1, relu_attributions=True
    )
    torch.testing.assert_close(found.grad_cam[layers[1]], theirs[0].detach(), atol=1e-6, rtol=1e-3)
    assert found.panels[f"layers/activations/{layers[0]}"].std() > 2
    # its stem cuts patches: the principal components of their kernels are drawn, too
    names = {"layers/filters/stem.0", "layers/filters/stem.0/components"}
    assert set(wrapped.filters("stem.0")) == names


def timm_vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, num_classes=2, embed_dim=16, depth=2, num_heads=2
    )


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2,), num_heads=(2,),
        num_classes=2,
    )  # fmt: skip


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=2)


def torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=2)


def of_transformers(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    config = getattr(transformers, f"{name}Config")(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, mlp_ratio=2, num_labels=2, torch_dtype="float32",
    )  # fmt: skip
    return getattr(transformers, f"{name}ForImageClassification")(config)


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (timm_vit, "blocks.0"),
        (timm_swin, "norm"),
        (torchvision_vit, "encoder.layers.encoder_layer_0"),
        (torchvision_swin, "permute"),
        (lambda: of_transformers("ViT"), "vit.layers.0"),
        (lambda: of_transformers("Dinov2"), "dinov2.layernorm"),
    ],
)
def test_a_wrapped_transformer_is_explained(build, layer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build().eval()
        if not network.state_dict()[[*network.state_dict()][-1]].any():
            network.get_parameter([*network.state_dict()][-2]).data.normal_()
    wrapped = convlens.wrap(network, ["cat", "dog"], size=32)
    found = wrapped.explain(Image.open(CAT), only=["grad_cam", "activations", "filters"])
    assert not [note for note in found.notes if note.startswith(("grad_cam", "activations"))]
    assert list(found.grad_cam) == [layer]
    image = found.picture[None]
    target = torch.tensor([found.targets])
    # the weights of the gradient's mean, computed by hand from what the layer returned
    seen = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    output = network(image)
    handle.remove()
    logits = output if isinstance(output, torch.Tensor) else output.logits
    (slopes,) = torch.autograd.grad(logits[0, target[0, 0]], seen[0])
    tokens = seen[0].detach()
    if layer == "norm" or layer == "permute":
        channels = 3 if layer == "norm" else 1
        tokens, slopes = (each.movedim(channels, -1).flatten(1, 2) for each in (tokens, slopes))
    patches = tokens.shape[1] // 4 * 4
    tokens, slopes = tokens[0, -patches:], slopes[0, -patches:]
    expected = (tokens * slopes.mean(0)).sum(1).relu().view(found.grad_cam[layer][0].shape)
    torch.testing.assert_close(found.grad_cam[layer][0], expected, atol=1e-6, rtol=1e-3)
    assert {"grad_cam", f"layers/activations/{layer}"} & set(found.panels)
    assert any(tag.startswith("layers/filters/") for tag in found.panels)


def test_a_transformer_without_a_classifier_is_refused():
    transformers = pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    with pytest.raises(UserError, match="without logits: use its class with a classifier"):
        convlens.wrap(transformers.ViTModel(config).eval(), ["cat", "dog"], size=32)
