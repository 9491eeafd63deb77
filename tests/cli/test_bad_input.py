"""A person's mistake: one line with the way out, a non-zero exit, nothing lost."""

from __future__ import annotations

import shutil

import pytest
import torch

from convlens.cli.main import main
from convlens.training import ClassifierModule
from support.tiny import TINY, draw_folder

FAST = ["model.filters=[4]", "data.size=16", "precision=32", "trainer=cpu", "callbacks=none",
        "training.epochs=1", "model.head.hidden=[4]"]  # fmt: skip


def refused(words: list[str], capsys) -> str:
    """Run a command that must be refused, and return the one line it says."""
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    # the decoder tells its progress on the same stream; the answer is the last line, alone
    assert [line.startswith("convlens: ") for line in lines] == [*[False] * (len(lines) - 1), True]
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def folder_words(folder) -> list[str]:
    return ["data=image_folder", f"data.dir={folder}", *FAST]


def test_unknown_experiment(at, capsys):
    assert "did you mean" in refused(["train", "exp=scrach"], capsys)
    assert not (at / "outputs").exists()


def test_misspelt_key(at, capsys):
    assert "did you mean training.epochs" in refused(["train", "training.epoch=3"], capsys)


def test_unknown_command(capsys):
    assert "did you mean train" in refused(["trian"], capsys)


def test_missing_folder(at, capsys):
    said = refused(["train", *folder_words(at / "nowhere")], capsys)
    assert "nowhere" in said and "data.dir" in said


def test_empty_class_folder(at, capsys, folder_of_two):
    shutil.rmtree(folder_of_two / "train" / "dogs")
    (folder_of_two / "train" / "dogs").mkdir()
    said = refused(["train", *folder_words(folder_of_two)], capsys)
    assert "dogs" in said and ".jpg" in said


def test_only_one_class(at, capsys):
    folder = draw_folder(at / "pics", {"cats": 8})
    assert "class" in refused(["train", *folder_words(folder)], capsys)


def test_truncated_jpeg_is_named_and_can_be_skipped(at, capsys, folder_of_two):
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    bad = folder_of_two / "train" / "dogs" / "broken.jpg"
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:800])
    said = refused(["train", *folder_words(folder_of_two)], capsys)
    assert "broken.jpg" in said and "data.on_error=skip" in said
    assert not (at / "outputs").exists()
    words = folder_words(folder_of_two)
    assert main(["train", *words, "data.on_error=skip", "run_dir=out"]) == 0
    assert "1 broken image skipped" in capsys.readouterr().out


def test_text_file_called_jpg(at, capsys, folder_of_two):
    (folder_of_two / "train" / "cats" / "notes.jpg").write_text("not a picture")
    assert "notes.jpg" in refused(["train", *folder_words(folder_of_two)], capsys)


def test_class_missing_from_validation(at, capsys, folder_of_two):
    shutil.rmtree(folder_of_two / "validation" / "dogs")
    said = refused(["train", *folder_words(folder_of_two)], capsys)
    assert "dogs" in said and "validation" in said


def test_checkpoint_of_another_class_count(at, capsys, folder_of_two):
    assert main(["train", *folder_words(folder_of_two), "run_dir=two"]) == 0
    three = draw_folder(at / "three", {"a": 8, "b": 8, "c": 8}, seed=3)
    said = refused(["eval", "ckpt=two/checkpoints/best.ckpt", f"data.dir={three}"], capsys)
    assert "2 classes" in said and "3" in said


def test_checkpoint_that_is_none(at, capsys):
    assert "no checkpoint" in refused(["eval", "ckpt=missing.ckpt"], capsys)
    (at / "text.ckpt").write_text("hello")
    assert "text.ckpt" in refused(["eval", "ckpt=text.ckpt"], capsys)
    assert "no run" in refused(["eval", "ckpt=last"], capsys)


def test_run_dir_below_a_file(at, capsys):
    (at / "file").write_text("")
    said = refused(["train", "run_dir=file/run", *TINY], capsys)
    assert "file is a file" in said


def test_run_dir_that_holds_a_run(at, capsys, folder_of_two):
    words = ["train", *folder_words(folder_of_two), "run_dir=mine"]
    assert main(words) == 0
    (at / "mine" / "notes.txt").write_text("keep me")
    before = (at / "mine" / "checkpoints" / "best.ckpt").read_bytes()
    said = refused(words, capsys)
    assert "resume" in said and "overwrite=true" in said
    assert (at / "mine" / "checkpoints" / "best.ckpt").read_bytes() == before
    assert main([*words, "overwrite=true"]) == 0
    assert (at / "mine" / "notes.txt").read_text() == "keep me"


def test_layer_that_is_not_there(at, capsys):
    said = refused(["train", *TINY, "callbacks.grad_cam.layers=backbone.block9.conv"], capsys)
    assert "block9" in said and "did you mean" in said


def test_resume_of_no_run(at, capsys):
    assert "no run folder" in refused(["resume", "run=nowhere"], capsys)
    (at / "empty").mkdir()
    assert "config.yaml" in refused(["resume", "run=empty"], capsys)
    assert "did you mean run" in refused(["resume", "rum=empty"], capsys)


def test_split_share_for_a_split_that_is_there(at, capsys, folder_of_two):
    words = ["train", *folder_words(folder_of_two), "data.split.validation=0.2"]
    assert "has its own validation" in refused(words, capsys)


def test_binary_loss_with_five_classes(at, capsys):
    assert "two classes" in refused(["train", *TINY, "training.loss=binary"], capsys)


@pytest.mark.parametrize("word", ["callbacks.grad_cam.target=zebra", "probes.files=[no.png]"])
def test_unknown_target_and_probe(at, capsys, word):
    refused(["train", *TINY, word], capsys)


LIBRARY = ["model=timm", "model.head=imagenet"]


@pytest.mark.parametrize(
    "command",
    [["explain", *LIBRARY], ["predict", "images=.", *LIBRARY], ["serve", *LIBRARY],
     ["export", "format=onnx", *LIBRARY], ["plan", "model=timm"], ["train", "model=timm"],
     ["lr-find", "model=timm"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_network_that_timm_lacks_is_refused_before_anything_is_downloaded(at, capsys, command):
    if command[0] == "serve":
        pytest.importorskip("gradio", reason="comes with the extra `serve`")
    said = refused([*command, "model.name=resnet5"], capsys)
    assert "model.name=resnet5: " in said and "did you mean resnet50 or" in said
    assert not (at / "data").exists() and not (at / "outputs").exists()


@pytest.mark.parametrize(
    ("name", "way_out"),
    [("", "`convlens models search=TEXT` lists them"), ("???", "search=TEXT"),
     ("ResNet5", "did you mean resnet50 or"), ("resnet18.a1_in2k", "did you mean resnet18.a1_in1k"),
     ("vit_base_patch16_224_in21k", "use model.name=vit_base_patch16_224.augreg_in21k"),
     ("vit_giant_patch14_224_clip_laion2b", "")],
)  # fmt: skip
def test_the_line_about_a_network_names_the_way_out(at, capsys, name, way_out):
    said = refused(["explain", *LIBRARY, f"model.name='{name}'"], capsys)
    assert f"model.name={name}" in said and way_out in said
    assert len(said.removeprefix("convlens: ")) <= 160


@pytest.mark.parametrize("search", ["WRONG", "resnet5x", "???x???"])
def test_a_search_without_result_says_so_in_a_short_line(capsys, search):
    said = refused(["models", f"search={search}"], capsys)
    assert f"search={search}: no network has such a name; " in said
    assert "search=resnet" in said or "did you mean resnet50" in said
    assert len(said.removeprefix("convlens: ")) <= 160


VGG = ["data=shapes", "data.pictures=60", "data.classes=2", "data.size=64", "precision=32",
       "trainer=cpu", "callbacks=none"]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exp=finetune_vgg16", "model.weights=nothing.pth"], "nothing.pth: there is no such file"),
        (["exp=finetune_timm", "model.name=resnet81"], "did you mean resnet18"),
        (
            ["exp=finetune_vgg16", "model.weights=none", "data.size=20"],
            "at least 32 pixels are needed",
        ),
        (
            ["exp=finetune_inception_v3", "model.weights=none", "data.size=64"],
            "at least 75 pixels are needed",
        ),
        (
            ["exp=finetune_vgg16", "model.weights=none", "finetune.groups.base=backbone.block9"],
            "no parameter matches backbone.block9; did you mean backbone.block",
        ),
        (
            ["exp=frozen_vgg16", "model.weights=none", "cache_features=always"],
            "cannot use stored features: the images are augmented",
        ),
        (["exp=finetune_vgg16", "model.head=imagenet", "model.weights=none"], "1000"),
    ],
)
def test_transfer_learning_mistakes(at, capsys, words, said):
    assert said in refused(["train", *words[:1], *VGG, *words[1:]], capsys)
    assert not (at / "outputs").exists()


def test_weights_that_are_none(at, capsys):
    import torch

    (at / "text.pth").write_text("not weights")
    torch.save({"conv.weight": torch.zeros(3)}, at / "other.pth")
    words = ["train", "exp=finetune_vgg16", *VGG]
    assert "text.pth" in refused([*words, "model.weights=text.pth"], capsys)
    said = refused([*words, "model.weights=other.pth"], capsys)
    assert "26 keys missing" in said and "1 unexpected (conv.weight)" in said
    (at / "cut.pth").write_bytes((at / "other.pth").read_bytes()[:300])
    assert "cut.pth" in refused([*words, "model.weights=cut.pth"], capsys)


def test_training_base_and_untrained_head_together_is_warned_of(at, capsys, monkeypatch):
    import torch

    from convlens.models import vgg16

    torch.save(vgg16.build_convolutions().state_dict(), at / "vgg16_features.pth")
    words = ["train", "exp=finetune_vgg16", *VGG, "model.weights=vgg16_features.pth"]
    words += ["debug=fast_dev_run", "training.batch_size=4", "training.eval_batch_size=4"]
    phases = "finetune.phases=[{epochs: 1, train: [head, last_block], lr: 0.001}]"
    assert main([*words, phases]) == 0
    assert "trained together from epoch 1" in capsys.readouterr().out


def fail_to_allocate():
    torch.empty(2**60, dtype=torch.uint8)  # torch's own words on a CPU


def fail_on_a_device():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the manual.")


def fail_in_python():
    raise MemoryError


@pytest.mark.parametrize("fail", [fail_to_allocate, fail_on_a_device, fail_in_python])
def test_too_little_memory_for_a_step_is_one_line_and_loses_nothing(
    at, capsys, monkeypatch, fail
):  # fmt: skip
    step = ClassifierModule.training_step

    def fail_in_epoch_2(module, batch, number):
        if module.current_epoch:
            fail()
        return step(module, batch, number)

    monkeypatch.setattr(ClassifierModule, "training_step", fail_in_epoch_2)
    words = ["data=shapes", "data.pictures=40", *FAST, "training.epochs=2", "run_dir=run"]
    line = refused(["train", *words], capsys)
    assert line.startswith("convlens: out of memory (")
    assert "training.batch_size" in line
    assert "manual" not in line
    assert (at / "run/checkpoints/last.ckpt").exists()
    monkeypatch.undo()
    monkeypatch.chdir(at)
    assert main(["resume", "run=run"]) == 0
