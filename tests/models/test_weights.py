"""Weights: where they are looked for, what belongs to them, and every way they can be wrong."""

from __future__ import annotations

import hashlib
import pickle
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.models import build_model, imagenet_classes, weights
from convlens.models.state import compute_fingerprint, load_weights
from convlens.models.weights import find_pending_download, find_weights

IMAGENET = (0.485, 0.456, 0.406)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder served on this machine: (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.fixture(autouse=True)
def nowhere(at, monkeypatch):
    """No weights folder, empty library caches, and a hub that does not answer."""
    monkeypatch.setenv("TORCH_HOME", str(at / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(at / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(at / "hub"))
    monkeypatch.setattr(weights, "ANSWER", 1)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def vgg(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(b"")
    return folder / name


def found(asked: str = "auto", whole: bool = False, network="vgg16", timm_name=None):
    return find_weights(network, asked, timm_name=timm_name, whole=whole, download=False)


def test_none_is_the_only_way_to_random_weights():
    assert find_weights("vgg16", "none", timm_name=None, whole=False) is None


def test_a_path_wins_and_has_to_exist(at):
    vgg(at / "weights", "vgg16_features.pth")
    mine = vgg(at, "mine.pth")
    assert found(str(mine)).path == mine
    assert found(str(mine)).origin == "model.weights"
    with pytest.raises(UserError, match="nothing.pth: there is no such file"):
        found("nothing.pth")


def test_folders_are_looked_through_in_order(at, monkeypatch):
    monkeypatch.setenv("CONVLENS_WEIGHTS", str(at / "elsewhere"))
    theirs = vgg(at / "elsewhere", "vgg16-397923af.pth")
    assert found().path == theirs
    ours = vgg(at / "weights", "vgg16_features_fp16.safetensors")
    assert found().path.resolve() == ours
    # of the base alone: no use where the classifier is wanted too
    assert found(whole=True).path == theirs


@pytest.mark.parametrize(
    ("name", "file", "fits"),
    [
        ("resnet50", "resnet50.pth", True),
        ("resnet50", "resnet50-0676ba61.pth", True),
        ("resnet50.a1_in1k", "resnet50.a1_in1k.safetensors", True),
        ("resnet50.a1_in1k", "resnet50_fp16.pth", True),
        ("resnet50", "resnet50_gn.pth", False),
        ("resnet50", "resnet50d-1.pth", False),
        ("resnet50", "resnet50.txt", False),
        ("resnet50", "seresnet50.pth", False),
        ("resnet50.a1_in1k", "resnet50.a2_in1k.pth", False),
        ("resnet50.a1_in1k", "resnet50.a1h_in1k.pth", False),
        ("resnet50", "resnet50.a2_in1k_fp16.pth", True),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0_timm_fp16.pth", True),
    ],
)
def test_a_file_is_known_by_its_name_and_not_taken_for_anothers(at, name, file, fits):
    vgg(at / "weights", file)
    assert (found(network="timm", timm_name=name) is not None) == fits


def test_the_normalisation_belongs_to_the_weights(at):
    vgg(at / "weights", "vgg16_features.pth")
    assert found().mean == IMAGENET
    keras = vgg(at, "inception_v3_keras_base.pth")
    assert found(str(keras), network="inception_v3", timm_name="inception_v3").std == (0.5,) * 3
    any_name = vgg(at, "x.pth")
    assert found(str(any_name), network="timm", timm_name="resnet18").mean == IMAGENET
    # CLIP's numbers, though convnext_base alone stands for weights with ImageNet's
    clip = vgg(at, "convnext_base.clip_laion2b_augreg_ft_in1k.pth")
    got = found(str(clip), network="timm", timm_name="convnext_base")
    assert got.mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_base_alone_does_not_do_where_the_classifier_is_wanted(at, suffix):
    (at / "weights").mkdir()
    base = {"conv1.weight": torch.zeros(1)}
    top = {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    for name, state in (("resnet18_base", base), ("resnet18_whole", base | top)):
        path = at / "weights" / f"{name}{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    for whole, name in ((False, "resnet18_base"), (True, "resnet18_whole")):
        assert found(network="timm", timm_name="resnet18", whole=whole).path.stem == name
    # what cannot be read is not passed over: loading it tells what is wrong
    vgg(at / "weights", f"resnet18_a{suffix}")
    assert found(network="timm", timm_name="resnet18", whole=True).path.stem == "resnet18_a"


def test_exactly_the_wanted_tag_comes_first_and_links_to_nothing_are_no_files(at):
    vgg(at / "weights", "resnet50-0676ba61.pth")
    wanted = vgg(at / "weights", "resnet50.a1_in1k.pth")
    got = found(network="timm", timm_name="resnet50.a1_in1k")
    assert got.path.resolve() == wanted
    (at / "weights" / "vgg16_features.pth").symlink_to("gone")
    assert found() is None


def test_the_librarys_cache_comes_before_a_download(at):
    official = vgg(at / "torch" / "hub" / "checkpoints", "vgg16-397923af.pth")
    assert (found().path, found().origin) == (official, "library cache")
    assert find_pending_download("vgg16", "auto", timm_name=None, whole=False) is None


def test_what_would_be_downloaded_is_told():
    assert "vgg16-397923af.pth" in find_pending_download(
        "vgg16", "auto", timm_name=None, whole=False
    )
    told = find_pending_download("timm", "auto", timm_name="resnet18", whole=False)
    assert told.startswith("timm/resnet18.")


def serve_vgg(monkeypatch, server, name: str) -> None:
    from torchvision.models import VGG16_Weights

    entry = VGG16_Weights.IMAGENET1K_V1
    monkeypatch.setattr(
        type(entry), "url", property(lambda self: f"{server[1]}/{name}"), raising=False
    )


def test_the_official_file_is_downloaded_whole_and_checked(at, monkeypatch, server, capsys):
    content = b"weights" * 1000
    digits = hashlib.sha256(content).hexdigest()[:8]
    (server[0] / f"vgg16-{digits}.pth").write_bytes(content)
    serve_vgg(monkeypatch, server, f"vgg16-{digits}.pth")
    got = find_weights("vgg16", "auto", timm_name=None, whole=False)
    assert got.path.read_bytes() == content
    assert got.path.parent == at / "torch" / "hub" / "checkpoints"
    assert "downloading" in capsys.readouterr().err


def test_a_download_with_another_checksum_is_refused(at, monkeypatch, server):
    (server[0] / "vgg16-00000000.pth").write_bytes(b"changed on the way")
    serve_vgg(monkeypatch, server, "vgg16-00000000.pth")
    with pytest.raises(UserError, match="sha256"):
        find_weights("vgg16", "auto", timm_name=None, whole=False)
    assert not list((at / "torch").rglob("*.pth"))


def test_nothing_to_be_had_is_one_line_that_says_everything(monkeypatch, server):
    monkeypatch.setenv("CONVLENS_WEIGHTS", "mine")
    serve_vgg(monkeypatch, server, "vgg16-397923af.pth")
    for network_name, timm_name, official in (
        ("vgg16", None, "vgg16-397923af.pth"), ("timm", "resnet18", "timm/resnet18"),
    ):  # fmt: skip
        began = time.monotonic()
        with pytest.raises(UserError) as caught:
            find_weights(network_name, "auto", timm_name=timm_name, whole=False)
        said = str(caught.value)
        for part in (official, "weights/", "$CONVLENS_WEIGHTS (mine)", "model.weights=none"):
            assert part in said
        assert time.monotonic() - began < 15


class Hub(Quiet):
    """Tells the checksum that the hub would, of ``b"weights"``, whatever it sends."""

    def end_headers(self):
        self.send_header("ETag", f'"{hashlib.sha256(b"weights").hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


@pytest.mark.parametrize("content", [b"weights", b"changed"])
@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("resnet18", "resnet18.a1_in1k"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_a_file_of_the_hub_is_checked_and_a_damaged_one_does_not_stay(
    at, monkeypatch, name, repository, content
):
    served = at / "served"
    file = served / "timm" / repository / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(served)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        f"http://127.0.0.1:{running.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    ask = partial(find_weights, "timm", "auto", timm_name=name, whole=False)
    try:
        if content == b"weights":
            got = ask()
            assert (got.path.read_bytes(), got.origin) == (content, "download")
            assert ask().origin == "library cache"
        else:
            with pytest.raises(UserError, match="another SHA-256"):
                ask()
            assert ask(download=False) is None
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("how", ["offline", "silent"])
def test_a_hub_out_of_reach_is_told_within_seconds(at, monkeypatch, how):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{silent.getsockname()[1]}/{{repo_id}}/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", how == "offline")
        began = time.monotonic()
        with pytest.raises(
            UserError, match="offline mode" if how == "offline" else "timed out"
        ) as e:
            find_weights("timm", "auto", timm_name="resnet18", whole=False)
        assert time.monotonic() - began < 5
        assert "\n" not in str(e.value)
        assert str(at / "hub") in str(e.value)


# ------------------------------------------------------------------------------------- reading


def filled(path: Path, **options) -> nn.Sequential:
    model = network()
    for parameter in model.parameters():
        parameter.data.zero_()
    where = type("Where", (), {"path": path})
    load_weights(model, where, classifier=("fc.",), **options)
    return model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("whole", [False, True])
def test_whole_or_base_fp16_or_fp32_either_format(tmp_path, suffix, dtype, whole):
    state = {k: v.to(dtype) if v.is_floating_point() else v
             for k, v in network().state_dict().items()}  # fmt: skip
    state.pop("1.num_batches_tracked")
    if whole:
        state |= {"fc.weight": torch.zeros(3, 2)}
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = filled(path)
    for name, value in network().state_dict().items():
        if value.is_floating_point():
            assert torch.equal(model.state_dict()[name], value.to(dtype).float())
            assert model.state_dict()[name].dtype == torch.float32


def test_prefix_and_wrapping(tmp_path):
    state = {f"features.{key}": value for key, value in network().state_dict().items()}
    torch.save({"state_dict": {**state, "fc.bias": torch.zeros(1)}}, tmp_path / "w.pth")
    model = filled(tmp_path / "w.pth", prefixes=("features.",))
    assert torch.equal(model[0].weight, network()[0].weight)


def test_missing_unexpected_and_misshapen_keys_are_counted_and_named(tmp_path):
    state = network().state_dict()
    state.pop("0.weight")
    state |= {"other.weight": torch.zeros(1), "2.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        filled(tmp_path / "w.pth")
    said = str(caught.value)
    for part in ("w.pth has weights of another network", "1 keys missing (0.weight)",
                 "1 unexpected (other.weight)", "1 of another shape (2.bias)"):  # fmt: skip
        assert part in said


class Evil:
    def __reduce__(self):
        return Path.write_text, (Path("executed"), "!")


@pytest.mark.parametrize("kind", ["truncated", "text", "code", "list", "numbers", "safetensors"])
def test_a_file_that_holds_no_weights_is_refused_and_never_executed(at, kind):
    path = at / ("w.safetensors" if kind == "safetensors" else "w.pth")
    torch.save(network().state_dict(), path)
    if kind in ("truncated", "safetensors"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "code":
        path.write_bytes(pickle.dumps({"0.weight": Evil()}, protocol=2))
    elif kind == "numbers":
        torch.save({0: torch.zeros(1)}, path)
    else:
        torch.save([1, 2], path)
    with pytest.raises(UserError, match="w\\.(pth|safetensors)") as caught:
        filled(path)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_a_fingerprint_tells_the_smallest_change():
    model = network()
    before = compute_fingerprint(model)
    assert compute_fingerprint(network()) == before
    model[1].num_batches_tracked += 1
    assert compute_fingerprint(model) == before
    model[1].running_mean[0] += 1e-7
    assert compute_fingerprint(model) != before
    assert compute_fingerprint(network().to(torch.bfloat16)) != before


# --------------------------------------------------------------------------------- real weights


@pytest.fixture
def real(shared_weights, monkeypatch):
    monkeypatch.setenv("CONVLENS_WEIGHTS", str(shared_weights))


def test_real_weights_are_found_and_fit(real):
    for words, size in ((["model=vgg16"], 64), (["model=inception_v3"], 96)):
        spec = compose(words).model
        model = build_model(spec, channels=3, size=size, outputs=5)
        assert model.weights.origin == "weights folder"
        assert model.normalise.mean.flatten()[0] == pytest.approx(0.485 if size == 64 else 0.5)


def test_weights_of_another_network_are_refused(real, shared_weights):
    file = str(shared_weights / "inception_v3_keras_base_fp16.pth")
    spec = compose(["model=vgg16"]).model.replace(weights=file)
    with pytest.raises(UserError, match="26 keys missing"):
        build_model(spec, channels=3, size=64, outputs=5)


def test_efficientnet_lite0_with_its_own_head_knows_a_cat_and_a_coffee(real):
    import numpy as np

    spec = compose(["model=timm", "model.name=tf_efficientnet_lite0", "model.head=imagenet"])
    model = build_model(spec.model, channels=3, size=224, outputs=1000).eval()
    for name, wanted in (("cat", {"Egyptian cat", "tabby", "tiger cat"}), ("coffee", {"espresso"})):
        photograph = Image.open(Path(__file__).parents[1] / "photographs" / f"{name}.jpg")
        pixels = torch.from_numpy(np.array(photograph.resize((224, 224)))).permute(2, 0, 1)
        with torch.no_grad():
            answer = int(model(pixels[None].float() / 255).argmax())
        assert imagenet_classes()[answer] in wanted
