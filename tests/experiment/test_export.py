"""`make export`: a file that answers as the network does, and is not written otherwise."""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convlens
from convlens.cli.export import FORMATS
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.experiment import export as exporting
from convlens.experiment.export import FILES, export_network
from convlens.experiment.inputs import EXAMPLE
from convlens.explain.grad_cam import grad_cam
from convlens.explain.layers import choose_layers
from convlens.export import onnx_file
from convlens.export.facts import read_facts
from support.pictures_made import ORIENTATION, photo
from support.tiny import TINY, TINY_VIT, draw_folder

needs_onnx = pytest.mark.skipif(
    not all(map(onnx_file.importlib.util.find_spec, onnx_file.WRITES)),
    reason="onnx, onnxscript and onnxruntime come with the extra `export`",
)
CLASSES = ["l'été", "日本", 'cat, "dog"']


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("exported")
    counts = {f"{s}/{n}": 8 for s in ("train", "validation", "test") for n in CLASSES}
    data = draw_folder(home / "data", counts)
    words = [word for word in TINY if not word.startswith("data.pictures")]
    words += ["data=image_folder", f"data.dir={data}", "training.epochs=2", "callbacks=none"]
    assert main(["train", f"run_dir={home / 'run'}", *words]) == 0
    return home / "run"


@pytest.fixture(scope="module")
def best(run) -> Path:
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def file(best, tmp_path_factory) -> Path:
    """The ONNX file of the run, with its map."""
    pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    home = tmp_path_factory.mktemp("onnx")
    assert main(["export", f"ckpt={best}", "cam=true", f"run_dir={home}"]) == 0
    return home / "network.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Images of many kinds, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    photo(90, 60).save(folder / "wide.jpg", quality=95)
    photo(1300, 900, 1).save(folder / "large.jpg", quality=90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo(50, 80, 2).save(folder / "turned.jpg", exif=exif)
    photo(40, 40, 3).convert("L").save(folder / "grey.png")
    photo(30, 50, 4).convert("P").save(folder / "palette.png")
    alpha = photo(60, 60, 5).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((60, 60)))
    alpha.save(folder / "transparent.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def predict(network: Path, images: Path, home: Path) -> list[dict[str, str]]:
    assert main(["predict", f"ckpt={network}", f"images={images}", f"run_dir={home}"]) == 0
    with (home / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_commands_formats_are_those_that_exist():
    assert set(FORMATS) == set(FILES)


def test_predictions_of_the_file_are_those_of_the_checkpoint(best, file, pictures, tmp_path):
    ours, theirs = (
        predict(each, pictures, tmp_path / name) for each, name in ((best, "a"), (file, "b"))
    )
    assert len(ours) == 7 and sum(bool(row["error"]) for row in ours) == 1
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if key.startswith(("probability/", "confidence")) and value:
                assert float(other[key]) == pytest.approx(float(value), abs=1e-5)
            else:
                assert other[key] == value


def test_the_file_is_valid_and_says_what_it_is(file, run):
    onnx = pytest.importorskip("onnx", reason="comes with the extra `export`")
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    (opset,) = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    texts = {each.key: each.value for each in model.metadata_props}
    assert opset == onnx_file.OPSET == int(texts["opset"])
    facts = read_facts(texts, "the file")
    config = convlens.open_run(run).config
    assert set(facts.class_names) == set(CLASSES) and facts.temperature == 1.0
    assert (facts.recipe.height, facts.recipe.channels, facts.recipe.resize) == (16, 3, "squash")
    assert facts.layer == "backbone.block2.activation"
    summary = json.loads((run / "summary.json").read_text())
    card = facts.card
    assert f"accuracy {summary['test']['accuracy']:.4f}" in card
    assert f"after epoch {summary['best_epoch']}" in card and "not calibrated" in card
    assert f"seed {config.seed}" in card and all(name in card for name in CLASSES)
    (entry,) = model.graph.input
    first, *others = entry.type.tensor_type.shape.dim
    assert entry.name == "images" and first.dim_param and not first.dim_value
    assert [each.dim_value for each in others] == [3, 16, 16]
    assert [each.name for each in model.graph.output] == ["probabilities", "logits", "grad_cam"]


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_any_number_of_images_answers_alike(best, file, count):
    import onnxruntime

    explainer = convlens.load(best, device="cpu")
    images = torch.rand(count, 3, 16, 16)
    session = onnxruntime.InferenceSession(str(file))
    shares, logits = session.run(["probabilities", "logits"], {"images": images.numpy()})
    np.testing.assert_allclose(shares, explainer.probabilities(images), atol=1e-5)
    np.testing.assert_allclose(logits, explainer.network(images).detach(), atol=1e-5)


def test_the_map_is_that_of_the_checkpoint(best, file, pictures):
    ours, theirs = convlens.load(best, device="cpu"), convlens.load(file)
    seen = 0
    for picture in sorted(pictures.glob("*.[jp][pn]g")):
        if picture.name == "broken.jpg":
            continue
        one, other = (each.explain(picture) for each in (ours, theirs))
        assert one.targets == other.targets
        assert one.grad_cam.keys() == other.grad_cam.keys() and len(one.grad_cam) == 1
        for maps in ("grad_cam", "maps"):
            for name, values in getattr(other, maps).items():
                torch.testing.assert_close(
                    values, getattr(one, maps)[name], atol=1e-4, rtol=0, msg=f"{picture} {name}"
                )
        assert set(other.maps) == {"occlusion", "superpixels"}
        assert set(other.panels) == {"grad_cam", "occlusion", "superpixels"}
        assert [note.partition(":")[0] for note in other.notes] == [
            "integrated_gradients", "activations",
        ]  # fmt: skip
        seen += bool(next(iter(one.grad_cam.values())).any())
    assert seen  # not all maps are empty


def test_explain_draws_the_file(file, pictures, tmp_path, capsys):
    words = [f"ckpt={file}", f"image={pictures / 'wide.jpg'}", f"run_dir={tmp_path / 'out'}"]
    assert main(["explain", *words]) == 0
    assert (tmp_path / "out" / "wide" / "grad_cam.jpg").exists()
    assert (tmp_path / "out" / "index.html").exists()
    for more, said in (
        (["only=activations"], "activations: an exported file has no layers"),
        (["only=filters"], "filters: an exported file has no layers"),
        (["only=saliency"], "saliency: an exported file has no layers"),
        (["only=grad_cam", "layers=backbone.block1.conv"], "only the map of backbone.block2"),
        (["only=grad_cam", "target=top2"], "only the map of the predicted class"),
    ):
        capsys.readouterr()
        assert main(["explain", *words[:2], f"run_dir={tmp_path / 'no'}", *more]) == 2, more
        assert said in capsys.readouterr().err.splitlines()[-1]


@needs_onnx
def test_without_a_map_nothing_is_drawn_and_a_line_says_so(best, pictures, tmp_path):
    export = export_network(str(best), [], run_dir=str(tmp_path))
    assert export.facts.layer is None and set(export.check.differences) == {
        "probabilities", "logits",
    }  # fmt: skip
    explainer = convlens.load(export.file)
    found = explainer.explain(pictures / "wide.jpg")
    assert not found.grad_cam and "export it with cam=true" in found.notes[0]
    with pytest.raises(UserError, match="computes no map"):
        explainer.explain(pictures / "wide.jpg", only="grad_cam")


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
@pytest.mark.parametrize("cam", [False, True])
def test_a_file_that_answers_otherwise_is_not_written(best, kind, cam, tmp_path, monkeypatch):
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    plain = exporting.copy_plain

    def changed(network):
        copy = plain(network)
        copy.head.logits.bias[0] += 1e-3
        return copy

    monkeypatch.setattr(exporting, "copy_plain", changed)
    with pytest.raises(UserError, match=r"nothing was written: \w+ of the file .* differ by"):
        export_network(str(best), [], kind=kind, cam=cam, run_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_program_of_torch_is_read_by_torch(best, tmp_path):
    export = export_network(
        str(best), [], kind="torch_export", cam=True, run_dir=str(tmp_path), count=5
    )
    texts = {"metadata.json": ""}
    program = torch.export.load(export.file, extra_files=texts).module()
    facts = read_facts(json.loads(texts["metadata.json"]), "the file")
    assert facts == export.facts and export.check.images == export.check.same == 5
    explainer = convlens.load(best, device="cpu")
    for count in (1, 4):
        images = torch.rand(count, 3, 16, 16)
        shares, logits, maps = program(images)
        torch.testing.assert_close(shares, explainer.probabilities(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(logits, explainer.network(images), atol=1e-5, rtol=0)
        assert maps.shape == (count, 8, 8)


def test_safetensors_hold_the_weights_of_the_checkpoint(best, tmp_path):
    from safetensors import safe_open

    export = export_network(str(best), [], kind="safetensors", run_dir=str(tmp_path))
    state = torch.load(best, weights_only=True)["state_dict"]
    expected = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    with safe_open(export.file, "pt") as content:
        assert read_facts(content.metadata(), "the file") == export.facts
        found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory) -> Path:
    """A run of timm's smallest ResNet, whose head averages and multiplies."""
    home = tmp_path_factory.mktemp("timm")
    words = [
        "exp=finetune_timm", "data=shapes", "data.pictures=60", "data.size=32",
        "model.name=resnet10t", "model.weights=none", "finetune=none", "training.epochs=1",
        "training.batch_size=16", "callbacks=none", "precision=32", "trainer=cpu",
    ]  # fmt: skip
    assert main(["train", f"run_dir={home / 'run'}", *words]) == 0
    return home / "run" / "checkpoints" / "best.ckpt"


def test_a_folder_for_timm_is_read_by_timm(of_timm, tmp_path):
    import timm

    export = export_network(str(of_timm), [], kind="timm", run_dir=str(tmp_path))
    assert export.file == tmp_path / "timm" and [*tmp_path.iterdir()] == [export.file]
    network = timm.create_model(f"local-dir:{export.file}", pretrained=True).eval()
    explainer = convlens.load(of_timm, device="cpu")
    config = timm.data.resolve_model_data_config(network)
    assert config["input_size"] == (3, 32, 32) and config["crop_pct"] == 1.0
    transform = timm.data.create_transform(**config)
    picture = photo(90, 60)
    image = explainer.read(picture)
    with torch.no_grad():
        logits = network(transform(picture)[None])
        torch.testing.assert_close(logits, explainer.network(image[None]), atol=1e-4, rtol=0)
    labels = json.loads((export.file / "config.json").read_text())["label_names"]
    assert labels == list(explainer.class_names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=tiff"], "format=tiff: "),
        (["format=onx"], "did you mean onnx"),
        (["format=safetensors", "cam=true"], "cam=true: format=safetensors holds only weights"),
        (["format=timm", "cam=true"], "cam=true: format=timm holds only weights"),
        (["format=timm"], "format=timm: the scratch network"),
        (["cam=yes"], "cam=yes: expected true or false"),
        (["count=0"], "count=0: expected a whole number"),
        (["format=torch_export", "images=nowhere"], "nowhere"),
        (["format=torch_export", "data.size=3"], "data.size=3: a checkpoint contains its network"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(best, words, said, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", f"ckpt={best}", f"run_dir={out}", *words]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("convlens: ") and said in error
    assert not any("convlens: " in line or "Traceback" in line for line in progress)
    assert not out.exists() or not list(out.iterdir())


def test_heads_that_timm_does_not_have_are_refused(of_timm, tmp_path):
    from convlens.config.compose import compose
    from convlens.experiment.module import build_module
    from convlens.export.timm_folder import build_timm_network

    cases = {
        "model.head.hidden=[8]": "one dense layer",
        "model.head.pool=flatten": "averages its maps, this head has model.head.pool=flatten",
        "model.name=mobilenetv3_small_050": "other layers after its features",
        "training.loss=binary": "one logit for two classes",
    }
    for word, said in cases.items():
        words = ["exp=finetune_timm", "data=shapes", "data.size=32", "model.weights=none",
                 "model.name=resnet10t", word]  # fmt: skip
        config = compose(words)
        module = build_module(config, ["a", "b"], pretrained=False)
        with pytest.raises(UserError, match=said):
            build_timm_network(module.model.eval(), config.model, 32)


VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


def assert_timm_agrees(name: str, ours, found, known: dict) -> None:
    """timm builds the network from its name, ``known`` and the weights, and answers alike."""
    import timm

    theirs = timm.create_model(name, pretrained=False, num_classes=3, **known).eval()
    theirs.load_state_dict(found.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = ours(images)
    assert expected.std() > 0
    torch.testing.assert_close(theirs(ours.normalise(images)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vit_tiny_patch16_224", VIT, []),
        ("vit_tiny_patch16_224", VIT, ["model.head.tokens=mean"]),
        ("deit_tiny_distilled_patch16_224", VIT, []),  # two dense layers, averaged
        ("beit_base_patch16_224", VIT, []),  # a norm in the classifier
        ("vit_base_patch16_siglip_224", VIT, []),  # a pooling with weights
        ("swin_tiny_patch4_window7_224",
         {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [1, 1],
          "num_heads": [1, 2]}, []),
    ],
)  # fmt: skip
def test_transformers_are_those_of_timm(name, options, words, tmp_path):
    """timm builds them from the name, the options and the weights, and answers alike."""

    from convlens.config.compose import compose
    from convlens.export.timm_folder import build_timm_network
    from convlens.models import build_model

    spec = compose(["model=timm", "model.weights=none", f"model.name={name}", *words]).model
    spec = spec.replace(options=options)
    ours = build_model(spec, channels=3, size=32, outputs=3, pretrained=False).eval()
    ours.requires_grad_(False)
    found, known = build_timm_network(ours, spec, 32)
    assert_timm_agrees(name, ours, found, known)


@pytest.mark.parametrize("name", ["resnet10t", "deit_tiny_distilled_patch16_224"])
def test_chosen_classes_of_timms_own_head_are_rows_of_its_last_layers(name):
    from torch import nn

    from convlens.config.compose import compose
    from convlens.export.timm_folder import build_timm_network
    from convlens.models import build_model
    from convlens.models.head import Select

    spec = compose(
        ["model=timm", "model.weights=none", f"model.name={name}", "model.head=imagenet"]
    ).model
    spec = spec.replace(options=VIT if "deit" in name else {})
    ours = build_model(spec, channels=3, size=32, outputs=1000, pretrained=False).eval()
    ours.head = nn.Sequential(OrderedDict(network=ours.head, classes=Select([7, 1, 4])))
    found, known = build_timm_network(ours.requires_grad_(False), spec, 32)
    assert_timm_agrees(name, ours, found, known)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("vit_tiny_patch16_224", ["model.head.tokens=both"], "model.head.tokens=both"),
        ("beit_base_patch16_224", ["model.head.norm=false"], "model.head.norm=false"),
    ],
)
def test_heads_of_transformers_that_timm_does_not_have_are_refused(name, words, said):
    from convlens.config.compose import compose
    from convlens.export.timm_folder import build_timm_network
    from convlens.models import build_model

    spec = compose(["model=timm", "model.weights=none", f"model.name={name}", *words]).model
    spec = spec.replace(options=VIT)
    ours = build_model(spec, channels=3, size=32, outputs=3, pretrained=False).eval()
    with pytest.raises(UserError, match=said) as refused:
        build_timm_network(ours.requires_grad_(False), spec, 32)
    assert len(str(refused.value)) <= 160 and "try format=onnx" in str(refused.value)


def test_a_gradient_that_torch_cannot_export_is_refused(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    from torch import nn

    from convlens.export.answers import Answers, copy_plain, trace_with_map

    # as in MobileNetV3: a convolution after the pooling
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1), nn.Flatten(),
        nn.Linear(6, 2),
    ).eval()  # fmt: skip
    traced = trace_with_map(Answers(copy_plain(network)), "1", torch.rand(2, 3, 8, 8))
    said = r"^format=onnx: .*convolution_backward.* cam=true needs; try format=torch_export$"
    with pytest.raises(UserError, match=said) as refused:
        onnx_file.convert(traced, torch.rand(2, 3, 8, 8), ["probabilities", "logits", "grad_cam"])
    assert len(str(refused.value)) <= 160


OTHERS = ("model.name", "model.options", "data.size")  # what a Swin sets anew
SWIN = [
    *(word for word in TINY_VIT if not word.startswith(OTHERS)),
    "data.size=32", "model.name=swin_tiny_patch4_window7_224", "model.options.embed_dim=16",
    "model.options.depths=[1,1]", "model.options.num_heads=[2,2]", "model.options.window_size=4",
    "model.options.patch_size=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("vit", TINY_VIT), ("swin", SWIN)])
def test_the_map_of_a_transformer_is_that_of_the_checkpoint(name, words, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    run = tmp_path / "run"
    words = [*words, "training.epochs=1", "callbacks=none"]
    assert main(["train", f"run_dir={run}", *words]) == 0
    best = run / "checkpoints" / "best.ckpt"
    network = convlens.load(best, device="cpu").network
    size = 32 if name == "swin" else 16
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    (layer,) = choose_layers(network, "auto", "grad_cam", example=images)
    expected = grad_cam(network, images, torch.full((3, 1), -1), [layer])
    kinds = ["torch_export"] if name == "swin" else ["onnx", "torch_export"]
    for kind in kinds:
        export = export_network(str(best), [], kind=kind, cam=True, run_dir=str(tmp_path / kind))
        if kind == "onnx":
            session = runtime.InferenceSession(str(export.file))
            _, logits, maps = session.run(None, {"images": images.numpy()})
        else:
            _, logits, maps = torch.export.load(export.file).module()(images)
        np.testing.assert_allclose(logits, expected.logits, atol=1e-5)
        np.testing.assert_allclose(maps, expected.maps[layer][:, 0], atol=1e-5)
    if name == "swin":  # what ONNX cannot hold is refused with the way out
        with pytest.raises(UserError, match=r"cam=true needs; try format=torch_export$") as refused:
            export_network(str(best), [], kind="onnx", cam=True, run_dir=str(tmp_path / "onnx"))
        assert len(str(refused.value)) <= 160
        assert not list((tmp_path / "onnx").glob("*"))


def test_nothing_is_overwritten(best, tmp_path):
    (tmp_path / "network.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"already contains network.safetensors"):
        export_network(str(best), [], kind="safetensors", run_dir=str(tmp_path))
    assert (tmp_path / "network.safetensors").read_bytes() == b"mine"


def test_moved_data_are_named_with_the_way_out(run, best, tmp_path, pictures):
    data = run.parent / "data"
    data.rename(run.parent / "moved")
    try:
        with pytest.raises(UserError, match="images=DIR"):
            export_network(str(best), [], kind="torch_export", run_dir=str(tmp_path))
        (tmp_path / "one").mkdir()
        export = export_network(
            str(best), [], kind="torch_export", run_dir=str(tmp_path / "one"),
            images=str(pictures / "wide.jpg"),
        )  # fmt: skip
        assert export.check.images == 2  # one image, twice
    finally:
        (run.parent / "moved").rename(data)


@pytest.mark.parametrize(
    ("name", "command"), [("onnxscript", "export"), ("onnxruntime", "predict")]
)
def test_a_missing_package_is_a_line_with_its_command(
    best, file, pictures, name, command, tmp_path, monkeypatch, capsys
):
    found = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util, "find_spec", lambda n, *a: None if n == name else found(n, *a)
    )
    words = {"export": [f"ckpt={best}"], "predict": [f"ckpt={file}", f"images={pictures}"]}
    assert main([command, *words[command], f"run_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert f"needs {name}, which is not installed: `pip install 'convlens[export]'`" in error
    assert not (tmp_path / "out").exists()


def test_other_onnx_files_are_refused(file, tmp_path, capsys):
    import onnx

    model = onnx.load(file)
    strangers = {"none": {}, "damaged": {"classes": "["}, "fewer": {"classes": '["a", "b"]'}}
    for name, changes in strangers.items():
        texts = {each.key: each.value for each in model.metadata_props}
        other = onnx.ModelProto()
        other.CopyFrom(model)
        del other.metadata_props[:]
        onnx.helper.set_model_props(other, {**texts, **changes} if changes else {})
        onnx.save(other, tmp_path / f"{name}.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    said = {
        "none": "was not exported by convlens", "damaged": "damaged metadata",
        "fewer": "3 classes, but 2 names", "text": "is not a readable ONNX file",
        "gone": "there is no file",
    }  # fmt: skip
    for name, words in said.items():
        capsys.readouterr()
        assert main(["predict", f"ckpt={tmp_path / name}.onnx", f"images={tmp_path}"]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert main(["export", f"ckpt={file}"]) == 2
    assert "is an exported file" in capsys.readouterr().err


def test_a_network_must_be_named(at, capsys):
    assert main(["export"]) == 2
    assert "export needs ckpt=FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_network_is_exported_from_drawn_images(tmp_path):
    export = export_network("example", [], kind="torch_export", run_dir=str(tmp_path))
    assert export.check.place == "data=shapes" and export.check.same == export.check.images == 16
    assert EXAMPLE.exists() and "shapes" in export.facts.card
