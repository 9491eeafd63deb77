"""Masks beside a person's own images: each lies on its image to the pixel."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.pixels.dataset import Images
from convlens.data.probes import Probes, choose_probes, load_user_probes
from support.masks_made import (
    ORIENTATION,
    VOC,
    blob,
    data,
    own_masks,
    picture,
    png,
    red,
    reference,
    xml,
)

# --------------------------------------------------------------------------------- on the image


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_masks_lie_on_their_pictures_to_the_pixel(with_masks, resize):
    module = data(with_masks, f"data.resize={resize}", "data.interpolation=nearest")
    with_mask = without = 0
    for split, pictures in module.dataset.splits.items():
        assert pictures.masks.dtype == bool and pictures.masks.shape == (len(pictures), 16, 16)
        assert isinstance(pictures.masks, np.memmap)
        expected = [n for n in pictures.names if "dogs" in n or int(Path(n).stem) % 2]
        assert [n for n, m in zip(pictures.names, pictures.masked, strict=True) if m] == expected
        assert np.array_equal(pictures.masks[pictures.masked], red(pictures)[pictures.masked])
        assert not pictures.masks[~pictures.masked].any()
        assert module.index.masked[split] == pictures.masked.sum()
        with_mask += sum(mask.any() for mask in pictures.masks)
        without += sum(not mask.all() for mask in pictures.masks)
    assert with_mask == 15 and without == 20
    assert module.index.notes == [f"masks for 15 of 20 images in {with_masks / 'masks'}"]
    assert module.dataset.notes == module.index.notes


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("width, height", [(41, 23), (19, 57), (8, 11), (13, 13)])
def test_masks_equal_a_brute_force_reference(tmp_path, resize, width, height):
    mask = blob(np.random.default_rng(width), width, height)
    files = [png(tmp_path / "m.png", mask)], [picture(tmp_path / "p.png", mask)]
    read = own_masks(files[1], files[0], size=13, resize=resize)
    assert np.array_equal(read.masks[0], reference(mask, 13, resize))
    assert 0 < read.masks[0].sum() < 169


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_masks_of_turned_pictures_as_they_lie_or_upright(tmp_path, turn, kind):
    mask = blob(np.random.default_rng(turn), 40, 22)
    lying = picture(tmp_path / f"p.{kind}", mask, turn)
    upright = mask
    operation = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(turn)  # fmt: skip
    if operation is not None:
        upright = np.asarray(Image.fromarray(mask).transpose(operation))
    want = reference(upright, 16, "crop")

    def read(file: Path):
        return own_masks([lying], [file], size=16, resize="crop")

    as_seen = read(png(tmp_path / "seen.png", upright))
    assert np.array_equal(as_seen.masks[0], want)
    # the size tells only images that lie on their side
    assert [("check that they fit" in note) for note in as_seen.notes] == (
        [True] if turn in (2, 3, 4) else []
    )
    if turn > 4:
        assert np.array_equal(read(png(tmp_path / "lying.png", mask)).masks[0], want)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.fromarray(mask).save(tmp_path / "said.png", exif=exif)
    said = read(tmp_path / "said.png")
    assert np.array_equal(said.masks[0], want) and said.notes == []


def test_masks_of_a_large_set_do_not_fill_memory_or_disk(tmp_path):
    """What has no mask costs no room: the file on disk is sparse."""
    mask = np.ones((20, 20), bool)
    pictures = [picture(tmp_path / "p.png", mask)] * 4000
    files = [None] * 3999 + [png(tmp_path / "m.png", mask)]
    read = own_masks(pictures, files, size=64, resize="squash", cache_dir=tmp_path / "cache")
    assert read.masks.shape == (4000, 64, 64) and read.masked.sum() == 1 and read.masks[-1].all()
    (array,) = (tmp_path / "cache").glob("*.npy")
    assert array.stat().st_size > 16e6 and array.stat().st_blocks * 512 < 1e6


# --------------------------------------------------------------------------------- what it says


def test_pngs_of_every_mode(tmp_path):
    """Non-zero is the object; void is not; opacity counts where it varies."""
    values = np.array([[0, 1, 2], [255, 0, 7]], np.uint8)
    any_value = values > 0
    square = picture(tmp_path / "p.png", any_value)
    voc = np.zeros((256, 3), np.uint8)  # its colours of 1, 2, 7 and 255
    voc[[1, 2, 7, 255]] = [[128, 0, 0], [0, 128, 0], [128, 128, 128], [224, 224, 192]]

    def palette(colours: np.ndarray, indices: np.ndarray = values) -> Image.Image:
        image = Image.fromarray(indices).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
        return image

    grey = np.repeat(np.arange(256), 3)
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[any_value] = [0, 0, 9]
    cutout = np.full((2, 3, 4), 255, np.uint8)
    cutout[..., :3] = 0  # black, seen where it is opaque
    cutout[..., 3] = values
    opaque = np.dstack([colour, np.full((2, 3), 255, np.uint8)])
    two = np.array([[255, 255, 255], [0, 0, 0]])  # as programs sort them that save few colours
    for name, image, want in (
        ("grey", Image.fromarray(values), any_value),
        ("16 bits", Image.fromarray(values.astype(np.uint16) * 3), any_value),
        ("1 bit", Image.fromarray(any_value), any_value),
        ("colour", Image.fromarray(colour), any_value),
        ("cutout", Image.fromarray(cutout), any_value),
        ("opaque", Image.fromarray(opaque), any_value),
        ("grey and alpha", Image.fromarray(opaque).convert("LA"), any_value),
        ("grey palette", palette(grey), any_value),
        ("VOC", palette(voc), any_value & (values < 255)),
        ("white first", palette(two, (~any_value).astype(np.uint8)), any_value),
        ("no black", palette(np.tile([9, 9, 9], 256)), any_value),
    ):
        image.save(tmp_path / "m.png")
        assert Image.open(tmp_path / "m.png").mode == image.mode, name
        read = own_masks([square], [tmp_path / "m.png"], size=6, resize="squash")
        whole = np.repeat(np.repeat(want, 3, axis=0), 2, axis=1)
        assert np.array_equal(read.masks[0], whole), name


ENTITIES = '<!DOCTYPE a [<!ENTITY x "{0}">]>' + VOC
BROKEN = {
    "no file": (None, "No such file"),
    "no PNG": (b"GIF89a", r"1\.png: its content is not PNG"),
    "half a PNG": ("half", r"1\.png: (image file is )?truncated|unrecognized|broken"),
    "another size": (np.ones((8, 6)), r"it has 6x8 pixels, but its image 12x8"),
    "half the size": (np.ones((4, 6)), r"it has 6x4 pixels, but its image 12x8"),
    "on its side": (np.ones((12, 8)), r"it has 8x12 pixels, but its image 12x8"),
    "text": ("hello", "it is not XML: syntax error"),
    "other XML": ("<svg/>", "it begins with <svg>, but Pascal VOC begins with <annotation>"),
    "no box": ([], "it has no <object>, so no box"),
    "an object without": ("<annotation><object/></annotation>", "has no <bndbox>"),
    "outside": ([(3, 1, 14, 4)], r"the box 3 1 14 4 .*outside the 12x8 pixels"),
    "all outside": ([(13, 1, 13, 4)], "is outside the 12x8 pixels"),
    "negative": ([(-3, 1, 10, 4)], "is outside"),
    "inverted": ([(3, 4, 5, 2)], "the box 3 4 5 2 .*ends before it begins"),
    "one of two": ([(1, 1, 2, 2), (5, 4, 3, 6)], "the box 5 4 3 6 .*ends before"),
    "no number": ([("NaN", 4, 5, 6)], "<xmin> in <bndbox> is 'NaN', not a number"),
    "no corner": ("<annotation><object><bndbox/></object></annotation>", "<xmin> .* is '', no"),
    "cropped": (((5, 8), (1, 1, 3, 4)), r"5x8 pixels, but its image has 12x8, other proportions"),
    "entities": (ENTITIES.format("ha", size="", objects="&x;"), "it has a DOCTYPE"),
    "UTF-16": (ENTITIES.format("ha", size="", objects="&x;").encode("utf-16"), "it has a DOCTYPE"),
    "EBCDIC": (
        b"<?xml version='1.0' encoding='cp037'?>"
        + ENTITIES.format("ha", size="", objects="&x;").encode("cp037"),
        "it has a DOCTYPE|it is not XML",
    ),
    "unknown encoding": ("<?xml version='1.0' encoding='klingon'?><annotation/>", "it is not XML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_masks_that_are_none_are_named_or_skipped(tmp_path, case):
    content, said = BROKEN[case]
    drawing = isinstance(content, np.ndarray | None | bytes) and case not in ("UTF-16", "EBCDIC")
    file = tmp_path / ("1.png" if drawing or content == "half" else "1.xml")
    if isinstance(content, np.ndarray):
        png(file, content)
    elif isinstance(content, list):
        xml(file, *content)
    elif isinstance(content, tuple):
        xml(file, *content[1:], size=content[0])
    elif content == "half":
        png(file, np.random.default_rng(0).random((8, 12)) < 0.5)
        file.write_bytes(file.read_bytes()[:60])
    elif content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    pictures = [picture(tmp_path / f"p{i}.png", np.ones((8, 12), bool)) for i in range(2)]
    files = [png(tmp_path / "good.png", np.zeros((8, 12))), file]
    keys = dict(size=9, resize="squash")
    with pytest.raises(UserError, match=said) as caught:
        own_masks(pictures, files, **keys)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message and "data.on_error=skip" in message
    read = own_masks(pictures, files, **keys, on_error="skip")
    # an empty object is a mask, a file that gives none is not; both are False all over
    assert read.masked.tolist() == [True, False] and not read.masks.any()
    (note,) = read.notes
    assert note.startswith(f"1 mask left out, the first: {file} (")


# --------------------------------------------------------------------------------------- together


def test_masks_are_kept_and_made_anew_when_a_file_changed(with_masks, capsys):
    whole = {"split": {"validation": 4, "test": 4}}
    before = data(with_masks, **whole).dataset.splits["test"]
    assert capsys.readouterr().err.count("masks to 16x16") == 3
    same = data(with_masks, **whole).dataset.splits["test"]
    assert "masks to" not in capsys.readouterr().err
    assert np.array_equal(before.masks, same.masks) and before.identity == same.identity
    ram = data(with_masks, "data.cache=ram", **whole).dataset.splits["test"]
    assert not isinstance(ram.masks, np.memmap) and np.array_equal(before.masks, ram.masks)
    assert np.array_equal(before.masked, ram.masked)
    row = int(np.flatnonzero(before.masked)[0])
    file = with_masks / "masks" / Path(before.names[row]).relative_to(with_masks / "pics")
    assert before.masks[row].any()
    info = file.stat()
    png(file, np.zeros(Image.open(file).size[::-1]))
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    capsys.readouterr()
    after = data(with_masks, **whole).dataset.splits["test"]
    assert capsys.readouterr().err.count("masks to") == 1
    assert not after.masks[row].any() and after.masked[row]
    assert np.array_equal(np.delete(after.masks, row, 0), np.delete(before.masks, row, 0))
    file.unlink()  # no file any more is another set of files
    gone = data(with_masks, **whole).dataset.splits["test"]
    assert not gone.masked[row] and gone.masked.sum() == before.masked.sum() - 1


def test_skipped_pictures_and_masks_leave_all_together(with_masks):
    (with_masks / "pics" / "dogs" / "1.png").write_bytes(b"no image")
    (with_masks / "masks" / "dogs" / "2.png").write_bytes(b"no mask")
    with pytest.raises(UserError, match=r"dogs/[12]\.png"):
        _ = data(with_masks).dataset
    made = data(with_masks, "data.on_error=skip", "data.interpolation=nearest").dataset
    pictures = list(made.splits.values())
    assert sum(map(len, pictures)) == 19 and sum(p.masked.sum() for p in pictures) == 13
    for each in pictures:
        assert np.array_equal(each.masks[each.masked], red(each)[each.masked])
    assert [note.split(",")[0] for note in made.notes] == [
        f"masks for 14 of 19 images in {with_masks / 'masks'}",
        "1 broken image skipped",
        "1 mask left out",
    ]
    for file in (with_masks / "masks").rglob("*.png"):
        file.write_bytes(b"no mask")
    with pytest.raises(UserError, match=r"no mask in data\.masks=.*can be used: .* masks left out"):
        _ = data(with_masks, "data.on_error=skip").dataset


def test_probes_know_whether_they_have_a_mask(with_masks, capsys):
    module = data(with_masks, split={"validation": 10, "test": 4})
    png(with_masks / "masks" / "cats" / "1.png", np.zeros(
        Image.open(with_masks / "pics" / "cats" / "1.png").size[::-1]))  # fmt: skip
    pictures = module.dataset.splits["validation"]
    chosen = choose_probes(pictures, module.class_names, count=8, seed=0)
    rows = [pictures.names.index(source) for source in chosen.sources]
    assert chosen.masked.tolist() == pictures.masked[rows].tolist()
    assert 0 < chosen.masked.sum() < 8
    assert np.array_equal(chosen.masks.numpy(), pictures.masks[rows])
    # the person's own
    paths = [str(with_masks / "pics" / name) for name in ("cats/1.png", "cats/2.png", "dogs/5.png")]
    own = load_user_probes(paths, module.class_names, module.spec)
    assert own.masks.dtype == torch.bool and own.masks.shape == (3, 16, 16)
    assert own.masked.tolist() == [True, False, True]  # the first an empty object
    assert own.masks.flatten(1).any(1).tolist() == [False, False, True]
    nothing = load_user_probes(paths[1:2], module.class_names, module.spec)
    assert nothing.masks is None and nothing.masked.tolist() == [False]
    (with_masks / "masks" / "dogs" / "5.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read .*dogs/5\.png"):
        load_user_probes(paths, module.class_names, module.spec)
    own = load_user_probes(paths, module.class_names, module.spec.replace(on_error="skip"))
    assert own.masked.tolist() == [True, False, False]
    assert "probes.files: 1 mask left out" in capsys.readouterr().err


def test_masked_where_nobody_said(with_masks):
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int)
    assert Images(images, labels, ["", ""]).masked.tolist() == [False, False]
    masks = np.zeros((2, 4, 4), bool)
    assert Images(images, labels, ["", ""], masks).masked.tolist() == [True, True]
    tensors = torch.zeros(2, 3, 4, 4), torch.zeros(2)
    assert Probes(*tensors, ["", ""], ["", ""]).masked.tolist() == [False, False]
    masks[1, 2, 2] = True
    probes = Probes(*tensors, ["", ""], ["", ""], torch.from_numpy(masks))
    assert probes.masked.tolist() == [False, True]
    drawn_shapes = compose(["data=shapes", "data.pictures=60", "data.size=16"]).data
    module = PictureData(drawn_shapes, seed=0, batch_size=4, eval_batch_size=5)
    assert module.dataset.splits["test"].masked.all()
    assert module.index.masked == {s: len(p) for s, p in module.dataset.splits.items()}


def test_plan_and_a_path_that_holds_what_hydra_gives_a_meaning(with_masks, capsys, at, monkeypatch):
    monkeypatch.setattr(
        "convlens.experiment.devices.time_steps", lambda *_: {"32": 1.0}
    )  # takes seconds
    odd = with_masks / "my masks, all (of = them)"
    (with_masks / "masks").rename(odd)
    small = ["model.filters=[4]", "data.size=16", "trainer=cpu", "precision=32", "callbacks=none"]
    words = [
        "data=image_folder",
        f"data.dir={with_masks / 'pics'}",
        f"data.masks={odd}",
        *small,
    ]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert f"masks for 15 of 20 images in {odd}" in said
    assert re.search(r"with a mask +│ +\d+ +│ +\d+ +│ +\d+", said)
