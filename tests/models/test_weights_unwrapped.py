"""Weights by other habits: containers, wrappers' prefixes, and the checkpoints of earlier runs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import convlens
from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.models import build_model
from convlens.models.earlier_run import read_earlier_run
from convlens.models.state import load_weights
from support.timm_tiny import SPEC, SWIN, VIT
from support.tiny import TINY, draw_folder


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


STATE = network().state_dict()


def prefixed(prefix: str, state=STATE) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def read(content, path: Path, **options) -> tuple[nn.Module, str | None]:
    torch.save(content, path)
    model = network(1)
    where = type("Where", (), {"path": path})
    return model, load_weights(model, where, classifier=("fc.",), **options)


class Lightning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss(torch.ones(2))


def compiled() -> dict:
    """The keys that ``torch.compile`` really makes."""
    return torch.compile(network()).state_dict()


HABITS = {
    "ddp": (lambda: prefixed("module."), "without module."),
    "lightning": (lambda: {"state_dict": Lightning(network()).state_dict()}, "1 other keys"),
    "compiled": (compiled, "without _orig_mod."),
    "compiled inside": (lambda: Lightning(torch.compile(network())).state_dict(), "_orig_mod."),
    "ddp of compiled": (lambda: prefixed("module._orig_mod."), "without _orig_mod."),
    "net": (lambda: {"model_state_dict": prefixed("net.")}, "out of model_state_dict"),
    "two": (lambda: prefixed("model.module."), "without model.module."),
    "ema": (
        lambda: {"state_dict": network(2).state_dict(), "state_dict_ema": STATE, "epoch": 3},
        "out of state_dict_ema",
    ),
    "torchvision": (
        lambda: {
            "model": network(2).state_dict(), "optimizer": {"state": {}}, "epoch": 1,
            "model_ema": torch.optim.swa_utils.AveragedModel(network()).state_dict(),
        },
        "out of model_ema, without module., 1 other keys ignored (n_averaged)",
    ),
    "timm": (
        lambda: {"arch": "x", "state_dict": STATE, "args": argparse.Namespace(lr=0.1)},
        "out of state_dict",
    ),
    "twice": (lambda: {"ema": {"module": STATE}}, "out of ema / module"),
}  # fmt: skip


@pytest.mark.parametrize("habit", HABITS)
def test_usual_wrappers_and_containers_are_taken_off_and_said(tmp_path, habit):
    content, said = HABITS[habit]
    model, note = read(content(), tmp_path / "w.pth")
    for key, value in model.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, STATE[key]), key
    assert said in note and note.startswith("w.pth: weights taken ")


def test_a_plain_file_needs_no_word(tmp_path):
    assert read(STATE, tmp_path / "w.pth")[1] is None
    assert read({**STATE, "fc.bias": torch.zeros(2)}, tmp_path / "w.pth")[1] is None
    features = {**prefixed("features."), "fc.bias": torch.zeros(2)}
    assert read(features, tmp_path / "w.pth", prefixes=("features.",))[1] is None
    wrapped = prefixed("module.", features)
    _, note = read(wrapped, tmp_path / "w.pth", prefixes=("features.",))
    assert note == "w.pth: weights taken without module."


def test_a_network_with_such_names_of_its_own_keeps_them(tmp_path):
    model = nn.ModuleDict({"model": network(), "net": network(1)})
    torch.save(model.state_dict(), tmp_path / "w.pth")
    other = nn.ModuleDict({"model": network(2), "net": network(3)})
    where = type("Where", (), {"path": tmp_path / "w.pth"})
    assert load_weights(other, where, classifier=()) is None
    assert torch.equal(other["net"][0].weight, model["net"][0].weight)


def test_two_different_networks_in_one_file_are_refused(tmp_path):
    both = prefixed("model.") | prefixed("net.", network(2).state_dict())
    with pytest.raises(UserError, match=r"has two networks, net\. and model\."):
        read(both, tmp_path / "w.pth")
    same = prefixed("model.") | prefixed("net.")
    assert torch.equal(read(same, tmp_path / "w.pth")[0][0].weight, STATE["0.weight"])


def test_what_does_not_fit_behind_a_wrapper_is_refused_by_its_keys(tmp_path):
    state = prefixed("module.")
    state["module.0.other"] = state.pop("module.0.weight")
    with pytest.raises(UserError, match=r"1 keys missing \(0.weight\), 1 unexpected \(0.other\)"):
        read(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no weights by name in model; use a state_dict"):
        read({"model": {"epoch": 3}}, tmp_path / "w.pth")


def test_a_file_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    with pytest.raises(UserError, match=r"w\.pth"):
        read(content, tmp_path / "w.pth")


def test_a_wrapped_resnet_starts_a_run(at):
    import timm

    theirs = timm.create_model("resnet18", pretrained=False)
    torch.save({"state_dict": prefixed("module.", theirs.state_dict())}, at / "mine.pth")
    spec = compose(["exp=finetune_timm", "model.weights=mine.pth"]).model
    model = build_model(spec, channels=3, size=32, outputs=3)
    mine = model.backbone.state_dict()
    assert torch.equal(mine["conv1.weight"], theirs.state_dict()["conv1.weight"])
    assert "without module." in model.weights.note


# ------------------------------------------------------------------------------ earlier runs


WORDS = [
    *(word for word in TINY if not word.startswith("data.pictures")), "data=image_folder",
    "training.epochs=1", "callbacks=none",
]  # fmt: skip


def folder(root: Path, names: list[str]) -> str:
    splits = ("train", "validation", "test")
    return f"data.dir={draw_folder(root, {f'{s}/{n}': 4 for s in splits for n in names})}"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> tuple[Path, str]:
    """The best checkpoint of a run over cats and dogs, and its data."""
    home = tmp_path_factory.mktemp("earlier")
    data = folder(home / "data", ["cats", "dogs"])
    words = [*WORDS, data, "model.normalisation=[[0.3],[0.2]]"]
    assert main(["train", f"run_dir={home / 'run'}", *words]) == 0
    return home / "run" / "checkpoints" / "best.ckpt", data


def built(words: list[str], names: list[str]):
    from convlens.experiment.module import build_module

    return build_module(compose(words), names)


def test_a_new_run_starts_from_an_earlier_ones_weights(earlier):
    path, _ = earlier
    theirs = convlens.load(path, device="cpu").network.state_dict()
    module = built([*WORDS, f"model.weights={path}"], ["cats", "dogs"])
    for key, value in module.model.state_dict().items():
        # exp=scratch names a normalisation of its own, and nothing is computed with the counter
        if key.startswith("normalise.") or key.endswith("num_batches_tracked"):
            continue
        assert torch.equal(value, theirs[key]), key
    assert "base and head" in module.model.weights.note
    assert "they were trained with normalisation" in module.model.weights.note
    module = built([*WORDS, f"model.weights={path}", "model.normalisation=auto"], ["cats", "dogs"])
    assert torch.equal(module.model.normalise.mean, theirs["normalise.mean"])
    assert torch.equal(module.model.normalise.std, theirs["normalise.std"])
    assert "normalisation" not in module.model.weights.note


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cats", "dogs", "emus"], r"its head has 2 other classes \(cats, dogs\)"),
        (["dogs", "cats"], "classes in another order"),
        (["lions", "wolves"], "2 other classes"),
    ],
)
def test_for_other_classes_the_base_alone_is_taken_and_it_is_said(earlier, names, said):
    path, _ = earlier
    theirs = convlens.load(path, device="cpu").network.state_dict()
    module = built([*WORDS, f"model.weights={path}"], names)
    drawn = built(WORDS, names).model.state_dict()
    for key, value in module.model.state_dict().items():
        wanted = theirs if key.startswith("backbone.") else drawn
        assert key.endswith("num_batches_tracked") or torch.equal(value, wanted[key]), key
    assert re.search(said, module.model.weights.note)
    assert "base only" in module.model.weights.note


def test_another_network_is_refused_with_the_keys_and_its_name(earlier):
    path, _ = earlier
    with pytest.raises(UserError, match=r"another network \(model.name=scratch\): .*missing"):
        built([*WORDS, f"model.weights={path}", "model.filters=[4,8,16]"], ["cats", "dogs"])
    with pytest.raises(UserError, match=r"\(model.name=scratch\): .*missing"):
        built(["exp=finetune_timm", "data.size=32", f"model.weights={path}"], ["cats", "dogs"])


TRANSFORMERS = {
    # name -> pixels before and after, options, the tensor that depends on the size
    "vit_tiny_patch16_224": (16, 32, {"patch_size": 8, **VIT}, "backbone.embed.pos_embed"),
    "stem_vit": (16, 24, {"stem": [4, 8], **VIT}, "backbone.embed.pos_embed"),
    "swin_tiny_patch4_window7_224": (
        64, 32, SWIN, "backbone.layers.1.blocks.0.attn.relative_position_bias_table"),
}  # fmt: skip


def build_transformer(name: str, size: int, choice: dict, weights: str = "none"):
    spec = SPEC.replace(name=name, options=choice, weights=weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classes = ["cats", "dogs"]
        model = build_model(spec, channels=3, size=size, outputs=2, class_names=classes).eval()
        for value in model.parameters() if weights == "none" else ():
            value.data.add_(0.1 * torch.randn_like(value))
    return model


def keep_as_run(model: nn.Module, name: str, size: int, path: Path) -> Path:
    """Write what the checkpoint of a run holds of its network."""
    config = {"model": {"name": name}, "data": {"size": size}}
    torch.save(
        {
            "hyper_parameters": {"config": config, "class_names": ["cats", "dogs"]},
            "state_dict": prefixed("model.", model.state_dict()),
        },
        path,
    )
    return path


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_an_earlier_run_at_another_size_is_resized_as_timm_does(name, tmp_path):
    before, after, choice, resized = TRANSFORMERS[name]
    earlier = build_transformer(name, before, choice)
    path = keep_as_run(earlier, name, before, tmp_path / "best.ckpt")
    model = build_transformer(name, after, choice, str(path))
    assert "weights of an earlier run, with " in model.weights.note
    assert "resized by timm to this image size, base and head" in model.weights.note
    assert resized in model.weights.note
    # timm's own network, by its own names and its own way to read a file
    theirs = timm.create_model(name, num_classes=0, img_size=after, **choice).eval()
    own = {
        key.removeprefix("network.").removeprefix("embed."): value
        for key, value in earlier.backbone.state_dict().items()
    }
    kind = type(theirs).__mro__[1] if name == "stem_vit" else type(theirs)
    convert = sys.modules[kind.__module__].checkpoint_filter_fn
    missing, unexpected = theirs.load_state_dict(convert(own, theirs), strict=False)
    assert not unexpected and all(key.startswith("fc_norm.") for key in missing)  # after features
    images = model.normalise(torch.rand(2, 3, after, after))
    links = len(model.backbone.link_names) - hasattr(model.backbone, "pool")
    with torch.no_grad():
        found = model.backbone.run(images, 0, links)
        torch.testing.assert_close(found, theirs.forward_features(images))
    for key, value in earlier.head.state_dict().items():
        assert torch.equal(model.head.state_dict()[key], value)


def test_position_embeddings_are_interpolated(tmp_path):
    name, (before, after, choice, key) = next(iter(TRANSFORMERS.items()))
    earlier = build_transformer(name, before, choice)
    path = keep_as_run(earlier, name, before, tmp_path / "best.ckpt")
    found = build_transformer(name, after, choice, str(path)).state_dict()[key]
    old = earlier.state_dict()[key]
    grid = old[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    grid = nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
    assert torch.equal(found[:, :1], old[:, :1])
    torch.testing.assert_close(found[:, 1:], grid.flatten(2).transpose(1, 2))


def test_what_timm_cannot_resize_is_refused_with_the_size_of_the_run(tmp_path, monkeypatch):
    name, choice = "pit_ti_224", {"base_dims": [8, 8, 8], "depth": [1, 1, 1]}
    earlier = build_transformer(name, 64, choice)
    path = keep_as_run(earlier, name, 64, tmp_path / "best.ckpt")
    line = r"best\.ckpt is for images of 64 pixels, and timm cannot resize .*pos_embed to 96: use "
    with pytest.raises(UserError, match=line + "data.size=64$"):
        build_transformer(name, 96, choice, str(path))
    # the file of a library, too
    monkeypatch.setenv("CONVLENS_WEIGHTS", str(tmp_path))
    whole = timm.create_model(name, **choice).state_dict()
    torch.save(whole, tmp_path / "pit_ti_224.pth")
    line = r"ti_224\.pth is for images of 224 pixels, and timm cannot resize pos_embed to 96: use "
    with pytest.raises(UserError, match=line + "data.size=224$"):
        build_transformer(name, 96, choice, "auto")
    # at the same size it is another network
    with pytest.raises(UserError, match=r"another network \(model.name=pit_ti_224\): .*missing"):
        build_transformer(name, 64, {**choice, "depth": [1, 1, 2]}, str(path))


def test_scratch_takes_no_other_weights(at):
    torch.save(STATE, at / "w.pth")
    for asked in ("w.pth", "gone.ckpt", "auto"):
        with pytest.raises(UserError, match="no checkpoint of an earlier run"):
            built([*WORDS, f"model.weights={asked}"], ["cats", "dogs"])
    assert read_earlier_run(at / "w.pth") is None


def test_train_and_resume_from_an_earlier_run_whose_folder_goes(earlier, at, capsys):
    path, data = earlier
    copy = at / "start.ckpt"
    copy.write_bytes(path.read_bytes())
    words = [*WORDS, data, f"model.weights={copy}", "model.normalisation=auto"]
    assert main(["train", f"run_dir={at / 'new'}", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("weights of an earlier run, base and head") == 1
    assert "weights of an earlier run" in (at / "new" / "train.log").read_text()
    copy.unlink()
    again = convlens.load(at / "new" / "checkpoints" / "best.ckpt", device="cpu")
    theirs = convlens.load(path, device="cpu").network
    assert torch.equal(again.network.normalise.mean, theirs.normalise.mean)


def test_a_whole_pickled_network_is_refused_and_named(tmp_path):
    torch.save({"model": network()}, tmp_path / "w.pth")
    where = type("Where", (), {"path": tmp_path / "w.pth"})
    with pytest.raises(UserError, match=r"has a pickled torch\.nn\S+, .*save only the state_dict"):
        load_weights(network(), where, classifier=())
