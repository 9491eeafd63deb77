"""A trained network asked: in a notebook, by `make explain`, by `make predict`, by `make eval`."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import LayerGradCam, Occlusion
from PIL import Image
from torch import nn

import convlens
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.draw.picture import to_uint8
from convlens.experiment.inputs import EXAMPLE, name_source
from convlens.experiment.methods import choose_methods
from convlens.experiment.networks import load_network
from support.panels import find
from support.pictures_made import photo
from support.places import ROOT
from support.tiny import TINY, draw_folder

CLASSES = ['<b>cats & "dogs"', "emus"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run over two classes, one of which has HTML in its name."""
    home = tmp_path_factory.mktemp("asked")
    counts = {f"{s}/{n}": 8 for s in ("train", "validation", "test") for n in CLASSES}
    data = draw_folder(home / "data", counts)
    words = [w for w in TINY if not w.startswith("data.pictures")]
    words += ["data=image_folder", f"data.dir={data}", "training.epochs=2", "callbacks=none"]
    assert main(["train", f"run_dir={home / 'run'}", *words]) == 0
    return home / "run"


@pytest.fixture(scope="module")
def explainer(run):
    return convlens.load(run / "checkpoints" / "best.ckpt", device="cpu")


def cat() -> Path:
    return ROOT / "tests" / "photographs" / "cat.jpg"


class Page(HTMLParser):
    """What a page shows and what it points at."""

    def __init__(self, file: Path):
        super().__init__()
        self.text, self.targets, self.tags, self.viewer = "", [], [], {}
        self._kind = ""  # of the script that is open
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._kind = dict(attrs).get("type", "script") if tag == "script" else ""
        self.targets += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        self._kind = ""

    def handle_data(self, data):
        if self._kind == "application/json":
            self.viewer = json.loads(data)
        elif not self._kind:
            self.text += data


def test_explanation_holds_captums_maps_for_the_likeliest_class(explainer):
    found = explainer.explain(cat())
    picture = decode_image(cat(), Recipe(16, 16))
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(found.picture, image[0])
    network = explainer.network
    shares = network(image).softmax(1)[0].detach()
    torch.testing.assert_close(found.probabilities, shares, atol=1e-6, rtol=0)
    best = int(shares.argmax())
    assert found.targets == (best,) and found.top(1)[0][0] == explainer.class_names[best]
    ((layer, maps),) = found.grad_cam.items()
    theirs = LayerGradCam(network, network.get_submodule(layer)).attribute(
        image, best, relu_attributions=True
    )
    torch.testing.assert_close(maps, theirs[0].detach(), atol=1e-5, rtol=0)
    mean = image.mean((2, 3), keepdim=True).expand_as(image)
    theirs = Occlusion(network).attribute(
        image, target=best, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), baselines=mean
    )
    torch.testing.assert_close(found.maps["occlusion"], theirs.mean(1), atol=1e-5, rtol=0)
    assert set(found.maps) == {"occlusion", "superpixels", "integrated_gradients"}
    shown = {
        "grad_cam",
        *found.maps,
        *(f"layers/activations/{layer}" for layer in found.activations),
    }
    assert set(found.panels) == shown and len(found.activations) > 3
    assert all(panel.std() > 2 for panel in found.panels.values())


def test_it_shows_itself_in_a_notebook_with_names_escaped(explainer, tmp_path):
    found = explainer.explain(cat(), only="grad_cam,saliency", target=CLASSES[0])
    shown = found._repr_html_()
    assert shown.count("data:image/jpeg;base64,") == 2 and "<b>cats &" not in shown
    assert str(found).startswith("cat: ")
    files = found.save(tmp_path / "maps")
    assert [file.name for file in files] == ["grad_cam.jpg", "saliency.jpg"]
    assert all(Image.open(file).size[0] > 100 for file in files)


def test_targets_and_methods_by_name(explainer):
    assert explainer.explain(cat(), only="grad_cam", target="emus").targets == (1,)
    both = explainer.explain(cat(), only=["grad_cam"], target="top3")
    assert sorted(both.targets) == [0, 1] and len(next(iter(both.grad_cam.values()))) == 2
    with pytest.raises(UserError, match="target=emu: no such class; did you mean emus"):
        explainer.explain(cat(), target="emu")
    with pytest.raises(UserError, match="only=grad_cm: no such explanation; did you mean grad_cam"):
        choose_methods("grad_cm")


def test_pictures_of_any_kind_are_read_alike(explainer, tmp_path):
    wanted = explainer.read(cat())
    assert torch.equal(explainer.read(Image.open(cat())), wanted)
    small = photo(60, 40)
    small.save(tmp_path / "small.png")
    wanted = explainer.read(tmp_path / "small.png")
    assert torch.equal(explainer.read(small), wanted)
    assert torch.equal(explainer.read(np.asarray(small)), wanted)
    assert torch.equal(explainer.read(wanted), wanted)
    assert explainer.read(torch.rand(1, 40, 30)).shape == (3, 16, 16)
    for wrong in (torch.rand(2, 16, 16), np.zeros((4, 4), np.float32)):
        with pytest.raises(ValueError, match="are"):
            explainer.read(wrong)


def test_no_picture_names_the_folder_where_convlens_is_installed():
    """The package's own images are named from the package on, all others as they were given."""
    assert name_source(EXAMPLE / "pictures" / "ring.png") == "example/pictures/ring.png"
    for given in ("ring.png", "../example/ring.png", str(EXAMPLE.with_name("examples") / "a.png")):
        assert name_source(given) == name_source(Path(given)) == given


def test_panels_are_drawn_on_the_photograph_and_maps_are_those_of_a_run(explainer):
    whole = Image.open(cat()).convert("RGB")
    methods = ["grad_cam", "occlusion", "layer_grad_cam"]
    found = explainer.explain(cat(), only=methods, target="top2")
    assert found.source == str(cat()) and found.photograph.seen == "451×300 squashed to 16×16"
    assert (found.photograph.picture == np.asarray(whole)).all()
    small = np.asarray(whole.resize((320, 213), Image.Resampling.BILINEAR))
    for tag in methods:
        assert len(find(found.panels[tag], small)) == 1, tag
    first, second = found.targets
    shares = found.probabilities[[first, second]].numpy()[None]
    kept = found.to_maps()
    assert [each.method for each in kept] == methods
    for each in kept:
        assert each.probes == ["cat"] and each.roles == ["predicted", "2nd"]
        assert each.classes == [[CLASSES[first], CLASSES[second]]]
        assert (each.probabilities == shares).all()
    ((layer, maps),) = found.grad_cam.items()
    assert (kept[0].layers[layer][0] == maps.numpy()).all()
    pooled = torch.nn.functional.adaptive_avg_pool2d(found.maps["occlusion"], 14)
    np.testing.assert_allclose(kept[1].layers["image"][0], pooled, atol=1e-6)
    assert list(kept[2].layers) == [layer]
    named = explainer.explain(cat(), only="occlusion", target=CLASSES[second]).to_maps()[0]
    assert named.roles == ["target"] and named.classes == [[CLASSES[second]]]


def test_photographs_of_whatever_is_explained(explainer):
    for size in ((60, 40), (900, 300)):
        image = photo(*size)
        shown = [
            explainer.explain(each, only="grad_cam").photograph
            for each in (image, np.asarray(image))
        ]
        shrink = min(1, 640 / max(size))
        goal = tuple(round(side * shrink) for side in size)
        theirs = np.asarray(image.resize(goal, Image.Resampling.BILINEAR))
        assert all((each.picture == theirs).all() for each in shown)
    tensor = explainer.read(photo(60, 40))
    found = explainer.explain(tensor, only="grad_cam")
    assert found.photograph.picture.shape == (16, 16, 3) and found.source == ""
    assert (found.photograph.picture == to_uint8(tensor)).all()


def test_any_network_can_be_wrapped_and_stays_as_it_is():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    names = ["a", "b", "c"]
    wrapped = convlens.wrap(network, names, size=64, normalisation="imagenet")
    found = wrapped.explain(cat(), only="grad_cam", target="b")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((found.picture - mean[:, None, None]) / std[:, None, None])[None]
    assert network.training and not network._forward_pre_hooks
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    network.eval()
    ((layer, maps),) = found.grad_cam.items()
    theirs = LayerGradCam(network, network.get_submodule(layer)).attribute(
        image, 1, relu_attributions=True
    )
    torch.testing.assert_close(maps, theirs[0].detach(), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="has 3 classes, but 2 names"):
        convlens.wrap(network, names[:2], size=64)


@pytest.fixture
def odd_pictures(tmp_path) -> Path:
    """Whatever people have in their folders."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    photo(60, 40).convert("CMYK").save(folder / "cmyk.jpg")
    ramp = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "deep.png")
    photo(60, 40).convert("L").save(folder / "grey.png")
    clear = photo(60, 40).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((60, 40)))
    clear.save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(60, 40).save(folder / "phone.jpg", exif=exif)
    frames = [photo(60, 40, seed) for seed in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1), (200, 30, 30)).save(folder / "dot.png")
    Image.new("L", (10_000, 10_000), 120).save(folder / "huge.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_explain_takes_a_folder_of_odd_pictures(run, odd_pictures, tmp_path, capsys):
    ckpt = run / "checkpoints" / "best.ckpt"
    home = tmp_path / "out"
    words = [f"ckpt={ckpt}", f"image={odd_pictures}", f"run_dir={home}", "only=grad_cam,occlusion"]
    assert main(["explain", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    noted = [line for line in said if line.startswith("! ")]
    assert len(noted) == 2  # what cannot be read, and what is no image
    assert sum("broken.jpg" in line for line in noted) == 1
    assert sum("notes.txt" in line for line in noted) == 1
    assert "1 of 9 files refused (see above)" in said
    names = {"clear", "cmyk", "deep", "dot", "grey", "huge", "moving", "phone"}
    assert {path.name for path in home.iterdir() if path.is_dir()} == names
    for name in names:
        assert {file.name for file in (home / name).iterdir()} == {"grad_cam.jpg", "occlusion.jpg"}
    explainer = convlens.load(ckpt, device="cpu")
    lying = np.asarray(Image.open(odd_pictures / "phone.jpg"))
    upright = explainer.read(np.rot90(lying, -1).copy())
    assert torch.equal(explainer.read(odd_pictures / "phone.jpg"), upright)
    page = Page(home / "index.html")
    assert not page.targets  # panels of maps are not repeated
    ((run,), cards) = page.viewer["runs"], page.viewer["cards"]
    assert {probe["name"] for probe in run["probes"]} == names and len(cards) == 8
    assert list(run["methods"]) == ["grad_cam", "occlusion"]
    assert CLASSES[0] in page.text and "b" not in page.tags


def test_explain_says_what_is_wrong_in_one_line(run, tmp_path, capsys):
    ckpt = f"ckpt={run / 'checkpoints' / 'best.ckpt'}"
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    picture = f"image={cat()}"
    cases = [
        ([ckpt], "needs image=PATH"),
        ([ckpt, "image=/nowhere.jpg"], "there is no file or folder /nowhere.jpg"),
        ([ckpt, f"image={tmp_path / 'empty'}"], "no images in"),
        ([ckpt, f"image={bad}", f"run_dir={tmp_path / 'out'}"], "none of the files of"),
        ([ckpt, picture, "only=heat"], "only=heat: no such explanation"),
        ([ckpt, picture, "target=cow"], "target=cow: no such class"),
        ([ckpt, picture, f"run_dir={tmp_path / 'full'}"], "already exists and is not empty"),
        ([ckpt, picture, "model=vgg16"], "a checkpoint contains its network"),
        ([picture, "seed=3"], "give ckpt=FILE, or model=…"),
        ([picture, "model=vgg16"], "add model.head=imagenet"),
        (["ckpt=/nowhere.ckpt", picture], "there is no checkpoint /nowhere.ckpt"),
    ]
    for words, answer in cases:
        assert main(["explain", *words]) == 2, words
        err = capsys.readouterr().err.strip().splitlines()
        assert answer in err[-1] and len([e for e in err if e.startswith("convlens:")]) == 1, err


def rows(file: Path) -> list[dict]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_predict_writes_every_probability_and_names_what_is_broken(run, odd_pictures, tmp_path):
    ckpt = run / "checkpoints" / "best.ckpt"
    words = [f"ckpt={ckpt}", f"images={odd_pictures}", f"run_dir={tmp_path / 'out'}", "batch=3"]
    assert main(["predict", *words]) == 0
    assert not list((tmp_path / "out").glob("*.part"))
    found = rows(tmp_path / "out" / "predictions.csv")
    assert [Path(row["file"]).name for row in found] == sorted(
        file.name for file in odd_pictures.iterdir() if file.suffix != ".txt"
    )
    explainer = convlens.load(ckpt, device="cpu")
    for row in found:
        if row["error"]:
            assert Path(row["file"]).name == "broken.jpg" and not row["predicted"]
            continue
        shares = explainer.probabilities(explainer.read(row["file"])[None])[0]
        told = torch.tensor([float(row[f"probability/{name}"]) for name in explainer.class_names])
        torch.testing.assert_close(told, shares, atol=1e-5, rtol=0)
        assert row["predicted"] == explainer.class_names[int(shares.argmax())]
        assert row["confidence"] == row[f"probability/{row['predicted']}"]
    assert main(["predict", *words]) == 2  # it is there already


def test_predict_takes_no_network_by_itself(odd_pictures, at, capsys):
    images = f"images={odd_pictures}"
    assert main(["predict", images]) == 2
    said = capsys.readouterr().err
    assert "predict needs ckpt=FILE" in said and "ckpt=example" in said
    assert not (at / "outputs").exists()
    assert main(["predict", images, "ckpt=example"]) == 0
    assert "the example network, trained on shapes" in capsys.readouterr().out


def test_explain_says_which_network_answers(odd_pictures, at, capsys):
    picture = next(file for file in odd_pictures.iterdir() if file.suffix == ".png")
    assert main(["explain", f"image={picture}", "only=grad_cam"]) == 0
    assert "explaining the example network, trained on shapes" in capsys.readouterr().out


def test_eval_writes_the_test_sets_predictions_and_mistakes(run, capsys):
    assert main(["eval", f"ckpt={run / 'checkpoints' / 'best.ckpt'}"]) == 0
    home = run / "evaluation" / "best"
    found = rows(home / "predictions.csv")
    assert len(found) == 16
    right = sum(row["predicted"] == row["true"] for row in found) / len(found)
    summary = json.loads((run / "summary.json").read_text())
    assert right == pytest.approx(summary["test"]["accuracy"])
    drawn = {path.relative_to(home).as_posix() for path in home.rglob("*.jpg")}
    assert any(name.endswith("confusion_matrix/test.jpg") for name in drawn)
    if right < 1:
        assert any(name.endswith("predictions/mistakes/test.jpg") for name in drawn)


def test_explain_without_a_word_shows_the_example_network(tmp_path, capsys):
    """In the first minute, before any training: five pictures, each named after what is on it."""
    assert (EXAMPLE / "shapes.ckpt").stat().st_size < 1_000_000
    assert main(["explain", f"run_dir={tmp_path / 'out'}", "only=grad_cam"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if ".png: " in line]
    assert len(said) == 5
    for line in said:
        file, _, answer = line.partition(".png: ")
        assert answer.startswith(Path(file).name + " "), line
    assert len(Page(tmp_path / "out" / "index.html").viewer["cards"]) == 5


def test_a_librarys_network_is_asked_with_its_own_size_and_classes(tmp_path, shared_weights):
    weights = shared_weights / "tf_efficientnet_lite0_timm_fp16.pth"
    words = ["model=timm", "model.name=tf_efficientnet_lite0", "model.head=imagenet"]
    explainer, name = load_network(None, [*words, f"model.weights={weights}"])
    assert explainer.shape == (3, 224, 224) and "tf_efficientnet_lite0" in name
    found = explainer.explain(cat(), only="grad_cam")
    assert found.top(1)[0][0] == "Egyptian cat" and found.top(1)[0][1] > 0.7


def test_the_page_stays_small_and_tells_what_is_beside_it(run, tmp_path, monkeypatch):
    pictures = tmp_path / "many"
    pictures.mkdir()
    for number in range(6):
        photo(30, 30, number).save(pictures / f"{number}.png")
    home = tmp_path / "out"
    words = [f"ckpt={run / 'checkpoints' / 'best.ckpt'}", f"image={pictures}", f"run_dir={home}"]
    monkeypatch.setattr("convlens.pages.explained.MOST_BYTES", 100_000)
    assert main(["explain", *words, "only=grad_cam,activations"]) == 0
    page = Page(home / "index.html")
    assert (home / "index.html").stat().st_size <= 100_000
    assert [probe["name"] for probe in page.viewer["runs"][0]["probes"]] == list("012345")
    drawn = len(list((home / "0" / "layers").rglob("*.jpg")))
    missing = f"of {drawn} layers did not fit on this page: see the folder next to it"
    assert page.text.count(missing) == 6 and len(page.targets) < 6 * drawn
    for name in "012345":  # the files are all there
        assert len(list((home / name).rglob("*.jpg"))) == drawn + 1
    monkeypatch.setattr("convlens.pages.explained.MOST_BYTES", 62_000)
    assert main(["explain", *words[:2], f"run_dir={home}_2", "only=grad_cam"]) == 0
    page = Page(home.with_name("out_2") / "index.html")
    shown = [name for name in "012345" if f"{name}.png" in page.text]
    assert 0 < len(shown) < 6
    assert f"{6 - len(shown)} more images did not fit on this page" in page.text


def test_what_explain_leaves_out_is_what_layers_would_add():
    """Of 24 convolutions with their activations, 16 layers are drawn unless they are named."""
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(24)]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    explainer = convlens.wrap(network, ["cat", "dog"], 16)
    shown, every = (
        len(explainer.explain(torch.rand(3, 16, 16), only="activations", layers=layers).panels)
        for layers in ("auto", "*")
    )
    assert shown <= 16 and every == 48 + 2  # a pattern also chooses the pooling and the dense layer
    line = f"activations of {48 - shown} layers; layers=* draws all"
    assert explainer.describe_left_out(["grad_cam", "activations"]) == line
    assert explainer.describe_left_out(["grad_cam"]) == ""
