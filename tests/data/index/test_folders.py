"""What lies in a folder and is used, what is not and is said, and what is nobody's image."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.cli import split as split_command
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.data.index.folders import Walk, is_left_by_tools
from convlens.data.index.kinds import FORMATS, detect_file_kind, detect_kind
from convlens.data.index.listing import list_images
from convlens.data.pixels.decode import ImageError, Recipe, decode_image
from support.tiny import draw_folder


def encoded(kind: str = "JPEG", seed: int = 0, size: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def put(root: Path, **files: bytes) -> None:
    """Files by their paths below ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(64)
HTML = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.fixture
def plain(tmp_path) -> Path:
    return draw_folder(tmp_path / "pics", {"cats": 4, "dogs": 4})


# ----------------------------------------------------------------------------------- by content


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pillow_writes_is_known_and_decoded_whatever_it_is_called(tmp_path, kind):
    file = tmp_path / "no suffix"
    file.write_bytes(encoded(kind))
    assert detect_file_kind(file) == kind
    assert decode_image(file, Recipe(24, 24)).shape == (24, 24, 3)


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "PDF", "EPS", "AVIF"])
def test_what_pillow_writes_and_is_not_decoded_here(kind):
    said = {"JPEG2000": "JPEG 2000", "EPS": "PostScript"}.get(kind, kind)
    try:
        content = encoded(kind, size=32)
    except (KeyError, OSError) as error:  # this Pillow was built without it
        pytest.skip(f"Pillow cannot write {kind}: {error}")
    assert detect_kind(content[:512]) == said


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (HEIC, "", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(9), "", "AVIF"),
        (MP4, "", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "", "camera RAW"),
        (b"II*\0\x10\0\0\0CR\2\0", "", "camera RAW"),
        (b"II*\0\x08\0\0\0", "a.NEF", "camera RAW"),
        (b"II*\0\x08\0\0\0", "a.tif", "TIFF"),
        (SVG, "", "SVG"),
        (HTML, "", "HTML"),
        (b"BMW 320d\n", "", "text"),
        ("größer".encode() * 80, "", "text"),
        ("\ufeffa,b\n".encode("utf-16"), "", "text"),
        (b"RIFF\0\0\0\0AVI ", "", "video"),
        (b"\0" * 128 + b"DICM", "", "DICOM"),
        (b"%PDF-1.7", "", "PDF"),
        (b"PK\3\4", "", "archive"),
        (os.urandom(8) + b"\0\1\2\xff\xfe" * 20, "", "unknown content"),
    ],
)
def test_kinds(content, name, kind):
    assert detect_kind(content[:512], name) == kind


def test_pictures_without_a_pictures_name_are_used(tmp_path):
    """48 JPEGs, 36 of them called otherwise."""
    for number in range(24):
        for label in ("cats", "dogs"):
            suffix = (".jpg", ".jfif", "", ".JPG_large")[number % 4]
            put(tmp_path, **{f"{label}/{number}{suffix}": encoded(seed=number)})
    put(tmp_path, **{"cats/x.jpg~": encoded(seed=99), "dogs/y.webp.orig": encoded("WEBP", 98)})
    found = list_images(tmp_path)
    assert len(found) == 50
    (note,) = found.notes
    assert note.startswith(
        "38 images are recognised by content, not by name: cats/1.jfif, cats/10, "
    )


def test_whatever_lies_in_a_class_folder_and_is_not_used_is_counted_and_named(plain):
    put(plain, **{f"cats/{n}.heic": HEIC for n in range(5)}, **{
        "dogs/clip.mov": MP4, "dogs/deep/drawing.svg": SVG, "cats/notes.txt": b"notes",
        "cats/empty": b"", "cats/.old.jpg": encoded(), "dogs/scan.pdf": b"%PDF-1.4",
    })  # fmt: skip
    (plain / "cats" / "gone").symlink_to(plain / "nowhere")
    found = list_images(plain)
    assert len(found) == 8
    (note,) = found.notes
    assert note.startswith("12 files in class folders are not used: 5 HEIC (cats/0.heic, "
                           "cats/1.heic, cats/2.heic, …); ")  # fmt: skip
    for part in ("1 video (dogs/clip.mov)", "1 SVG (dogs/deep/drawing.svg)",
                 "1 text (cats/notes.txt)", "1 empty (cats/empty)", "1 hidden (cats/.old.jpg)",
                 "1 PDF (dogs/scan.pdf)", "1 link to nothing (cats/gone)",
                 "convert images to JPEG or PNG"):  # fmt: skip
        assert part in note


def test_a_pipe_is_not_waited_for(plain):
    os.mkfifo(plain / "cats" / "pipe.jpg")
    (plain / "cats" / "other").symlink_to(plain / "cats" / "pipe.jpg")
    assert "2 pipe or device (cats/other, cats/pipe.jpg)" in list_images(plain).notes[0]


def test_a_class_of_pictures_that_cannot_be_decoded_says_so(plain):
    put(plain, **{"birds/1.heic": HEIC, "birds/2.HEIC": HEIC})
    with pytest.raises(UserError, match=r"no images in .*birds, only 2 HEIC \(1.heic, 2.HEIC\)"):
        list_images(plain)


def test_pictures_beside_the_class_folders_are_found_by_content_too(plain):
    put(plain, stray=encoded())
    with pytest.raises(UserError, match="1 images are beside the class folders, such as .*stray"):
        list_images(plain)


@pytest.mark.parametrize(
    ("content", "said"),
    [(HTML, r"its content \(HTML\) is not in a supported"),
     (HEIC, "HEIC.*convert images to JPEG or PNG"),
     (b"\x89PNG\r\n\x1a\nrubbish", "begins like a PNG file but is damaged|broken|truncated")],
)  # fmt: skip
def test_a_file_with_a_pictures_name_that_is_none_says_what_it_is(tmp_path, content, said):
    put(tmp_path, **{"a.png": content})
    with pytest.raises(ImageError, match=said):
        decode_image(tmp_path / "a.png", Recipe(8, 8))


def test_no_file_is_opened_twice_and_none_whose_name_tells(plain, monkeypatch):
    put(plain, **{"cats/deep/a": encoded(seed=1), "dogs/b": encoded(seed=2), "c": b"readme"})
    opened = []
    real = open

    def counting(path, *args, **kwargs):
        opened.append(os.path.basename(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", counting)
    assert len(list_images(plain)) == 10
    assert sorted(opened) == ["a", "b", "c"]


def test_a_pattern_and_a_table_say_what_they_leave(tmp_path):
    for n in range(4):
        put(tmp_path, **{f"{('cat', 'dog')[n % 2]}.{n}": encoded(seed=n)})
    put(tmp_path, **{"cat.9.heic": HEIC})
    found = list_images(tmp_path, pattern="{class}.*")
    assert len(found) == 4
    assert found.notes[0].startswith(f"1 file in {tmp_path} is not used: 1 HEIC (cat.9.heic)")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\ncat.0,cat\ndog.1,dog\n")
    (note,) = list_images(tmp_path, csv=table).notes
    assert (
        note == "2 images beside those of the table are not listed in it and not used: cat.2, dog.3"
    )


# ------------------------------------------------------------------------------- nobody's folders


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", ".thumbnails", "#recycle", "lost+found", ".ipynb_checkpoints",
     "$RECYCLE.BIN", "System Volume Information", ".Trash-1000", "@Recycle", ".@__thumb"],
)  # fmt: skip
def test_folders_of_systems_and_tools_hold_no_pictures_of_the_users(plain, name):
    put(plain, **{f"{name}/x.jpg": encoded(), f"cats/{name}/1.png/THUMB_M.jpg": encoded()})
    found = list_images(plain)
    assert found.class_names == ("cats", "dogs") and len(found) == 8 and not found.notes
    assert len(list(Walk(plain).find_images(plain))) == 8


@pytest.mark.parametrize("name", ["._cat.jpg", "Thumbs.db", ".DS_Store", "desktop.ini", ".nomedia"])
def test_files_of_systems_and_tools_are_not_worth_a_line(plain, name):
    put(plain, **{f"cats/{name}": b"\0\5\x16\7"})
    assert len(list_images(plain)) == 8 and not list_images(plain).notes
    assert is_left_by_tools(name) and not is_left_by_tools("cats")


@pytest.mark.parametrize("named", ["{}.png", "thumb_{}.jpg", "{}_small.jpg", "{}-150x150.png"])
def test_folders_that_mirror_the_class_around_them_are_said(plain, named):
    for n in range(4):
        put(plain, **{f"cats/thumbs/{named.format(n)}": encoded(seed=n, size=8)})
    (note,) = list_images(plain).notes
    assert note.startswith("1 folder in classes (cats/thumbs/) with 4 images named like others")


def test_copies_side_by_side_are_said_and_numbered_folders_are_not(tmp_path):
    for part in ("cats/large", "cats/small"):
        put(tmp_path, **{f"{part}/{n}.jpg": encoded() for n in ("tom", "kitty", "felix")})
    for part in ("dogs/monday", "dogs/tuesday"):
        put(tmp_path, **{f"{part}/IMG_{n:04}.jpg": encoded() for n in range(4)})
    (note,) = list_images(tmp_path).notes
    assert "(cats/small/) with 3 images" in note


def test_folders_that_go_on_with_other_pictures_are_not_said(plain):
    put(plain, **{f"cats/more/{n}.png": encoded(seed=n) for n in range(3, 9)})
    assert not list_images(plain).notes


# ------------------------------------------------------------------------------------- commands


def test_train_plan_and_split_say_what_is_not_used(plain, at, capsys):
    put(plain, **{"cats/1.heic": HEIC, "dogs/x.jfif": encoded()})
    line = "1 file in class folders is not used: 1 HEIC (cats/1.heic)"
    words = ["data=image_folder", f"data.dir={plain}", "data.size=16",
             "data.split.validation=2", "data.split.test=2"]  # fmt: skip
    assert main(["plan", *words]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    counts = split_command.divide(plain, at / "dst", validation=0, test=2)
    assert sum(map(sum, (each.values() for each in counts.values()))) == 9
    assert line in capsys.readouterr().out


def test_predict_and_explain_use_by_content_and_say_what_they_do_not(tmp_path, at, capsys):
    put(tmp_path / "in", **{
        "a": encoded(), "b.jfif": encoded(seed=1), "c.png": encoded("PNG"), "d.heic": HEIC,
        "deep/e.mp4": MP4, "@eaDir/a/THUMB.jpg": encoded(), "._a.jpg": b"\0\5\x16\7",
    })  # fmt: skip
    left = "2 files in {} are not used: 1 HEIC (d.heic); 1 video (deep/e.mp4)"
    assert main(["predict", "ckpt=example", f"images={tmp_path / 'in'}", "run_dir=p"]) == 0
    assert left.format(tmp_path / "in") in capsys.readouterr().out
    rows = (at / "p" / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[0].rsplit("/")[-1] for row in rows[1:]] == ["a", "b.jfif", "c.png"]
    words = [f"image={tmp_path / 'in'}", "only=grad_cam", "run_dir=e"]
    assert main(["explain", *words]) == 0
    assert left.format(tmp_path / "in") in capsys.readouterr().out
    assert "deep/e.mp4" in (at / "e" / "index.html").read_text()
    (tmp_path / "none").mkdir()
    put(tmp_path / "none", **{"d.heic": HEIC})
    assert main(["predict", "ckpt=example", f"images={tmp_path / 'none'}"]) == 2
    assert "only 1 HEIC (d.heic)" in capsys.readouterr().err
