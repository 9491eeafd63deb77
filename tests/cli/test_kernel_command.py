"""``make kernel``: the picture as it is meant, numbers that add up, one line for a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.cli import kernel as command
from convlens.core.errors import UserError
from convlens.data.pixels.decode import ImageError
from convlens.lessons.kernel.lesson import decode_in_proportion

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"
CAT = f"image={PHOTOGRAPHS / 'cat.jpg'}"


def run(*words: str) -> None:
    assert command.run(list(words)) == 0


def blocks(text: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """(patch, kernel, products, sum) of every channel, parsed from what was printed."""
    found, rows, total = [], [], None
    for line in [*text.splitlines(), "end"]:
        if line.startswith("  "):
            if "sum" in line:
                line, _, last = line.partition("sum")
                total = float(last)
            numbers = [float(n) for n in re.findall(r"-?\d[\d.]*(?:e[+-]\d+)?", line)]
            rows.append(np.split(np.array(numbers), 3))
        elif rows:
            found.append((*(np.array(part) for part in zip(*rows, strict=True)), total))
            rows, total = [], None
    return found


def test_a_photograph_gives_a_panel_and_numbers_that_add_up(at, capsys):
    run(CAT)
    out = capsys.readouterr().out
    (file,) = at.glob("outputs/kernel/*/kernel.jpg")
    assert out.splitlines()[-1].split()[-1] == str(file.relative_to(at))
    with Image.open(file) as panel:
        assert panel.format == "JPEG" and min(panel.size) > 600
    picture = decode_in_proportion(PHOTOGRAPHS / "cat.jpg", 150).astype(float)
    height, width = picture.shape[:2]
    assert f"rows: ({height} + 2·0 − 3)/1 + 1 = {height - 2}" in out
    assert f"columns: ({width} + 2·0 − 3)/1 + 1 = {width - 2}" in out
    # by differences of sums over columns, which is what this kernel is
    columns = picture[:-2] + picture[1:-1] + picture[2:]
    maps = columns[:, :-2] - columns[:, 2:]
    row, column = map(int, re.search(r"output row (\d+), column (\d+) ", out).groups())
    total = np.abs(maps.sum(2))
    assert total[row, column] == total.max()
    found = blocks(out)
    assert len(found) == 3
    for channel, (patch, kernel, products, written) in enumerate(found):
        assert (patch == picture[row : row + 3, column : column + 3, channel]).all()
        assert (kernel == [[1, 0, -1]] * 3).all()
        assert (products == patch * kernel).all()
        assert written == products.sum() == maps[row, column, channel]
    assert out.split("red + green + blue")[1].split()[-3] == f"{maps.sum(2)[row, column]:.0f}"


def test_the_strongest_place_is_that_of_the_sum(at, capsys):
    pixels = np.zeros((9, 9, 3), np.uint8)
    pixels[2, 3] = 255, 0, 0
    pixels[6, 7] = 120, 120, 120
    Image.fromarray(pixels).save(at / "spots.png")
    run("image=spots.png", "kernel=[[1]]")
    assert "output row 6, column 7 sees row 6, column 7" in capsys.readouterr().out


def test_all_words_are_heard(at, capsys):
    run(
        f"image={PHOTOGRAPHS / 'coffee.jpg'}", "kernel=[[1,-1],[0.5,0],[0,2]]", "stride=2",
        "padding=1", "pooling=max", "pool_size=3", "at=0,1", "size=60", "run_dir=here/there",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert (at / "here" / "there" / "kernel.jpg").exists() and not (at / "outputs").exists()
    height, width = decode_in_proportion(PHOTOGRAPHS / "coffee.jpg", 60).shape[:2]
    assert width == 60
    sizes = [(edge + 2 - k) // 2 + 1 for edge, k in ((height, 3), (width, 2))]
    ends = [int(line.split(" = ")[1].split()[0]) for line in out.splitlines() if "} + 1" in line
            or "+ 1 = " in line]  # fmt: skip
    assert ends == [*sizes, *(edge // 3 for edge in sizes)]
    assert "rows -1 to 1, columns 1 to 2 of the image" in out and "padding" in out
    for patch, kernel, products, total in blocks(out):
        assert (kernel == [[1, -1], [0.5, 0], [0, 2]]).all() and not patch[0].any()
        assert products.sum() == pytest.approx(total) == pytest.approx((patch * kernel).sum())


@pytest.mark.parametrize("kernel", ["sharpen", "blur", "emboss", "horizontal_edge", "[1,-1]"])
@pytest.mark.parametrize("padding", ["same", "2"])
def test_every_kernel_gives_a_panel(at, capsys, kernel, padding):
    run(CAT, f"kernel={kernel}", f"padding={padding}", "size=40", "pooling=average")
    assert len(list(at.glob("outputs/kernel/*/kernel.jpg"))) == 1
    if padding == "same":
        ends = re.findall(r"output +(?:rows|columns): .* = (\d+)", capsys.readouterr().out)
        assert tuple(map(int, ends)) == decode_in_proportion(PHOTOGRAPHS / "cat.jpg", 40).shape[:2]


def colours(width: int, height: int) -> Image.Image:
    """Red on the left and blue on the right: which way up it lies can be seen."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize(("turn", "shape"), [(1, (20, 40)), (3, (20, 40)), (6, (40, 20))])
def test_pictures_are_upright_in_their_own_proportions(tmp_path, name, turn, shape):
    exif = Image.Exif()
    exif[0x0112] = turn
    colours(80, 40).save(tmp_path / name, exif=exif)
    picture = decode_in_proportion(tmp_path / name, 40).astype(int)
    assert picture.shape == (*shape, 3)
    # where the red half has come to lie
    half = {1: picture[:, :18], 3: picture[:, 22:], 6: picture[:18]}[turn]
    assert half[..., 0].min() > 150 and half[..., 2].max() < 60


def test_small_pictures_keep_their_size_and_thin_ones_a_pixel(tmp_path):
    colours(30, 20).save(tmp_path / "small.png")
    exact = np.asarray(Image.open(tmp_path / "small.png"))
    assert (decode_in_proportion(tmp_path / "small.png", 150) == exact).all()
    colours(1000, 2).save(tmp_path / "thin.png")
    assert decode_in_proportion(tmp_path / "thin.png", 50).shape == (1, 50, 3)


def test_pictures_of_every_kind_are_read_as_they_are_meant(at, capsys):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(at / "deep.png")
    colours(16, 16).convert("CMYK").save(at / "cmyk.jpg", quality=95)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(at / "clear.png")
    Image.new("L", (9, 9), 50).save(at / "grey.jpg")
    run("image=deep.png", "at=0,0")
    out = capsys.readouterr().out
    ((patch, *_),) = blocks(out)
    assert "8×8, grey" in out and "red" not in out
    assert np.abs(patch - values[:3, :3] / 257).max() <= 0.5
    run("image=cmyk.jpg", "at=0,0", "kernel=[[1]]")
    red, green, blue = (float(patch[0, 0]) for patch, *_ in blocks(capsys.readouterr().out))
    assert red > 150 and green < 40 and blue < 40
    run("image=clear.png", "at=0,0", "kernel=[[1]]")
    assert blocks(capsys.readouterr().out)[0][0] == 255  # white under what is transparent
    run("image=grey.jpg", "kernel=blur")
    assert "sum 50" in capsys.readouterr().out


def test_a_home_directory_in_the_path_and_brackets_around_a_place(at, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(PHOTOGRAPHS))
    run("image=~/cat.jpg", "at=[3, 4]", "size=30")
    assert "output row 3, column 4 sees" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "kernel needs image="),
        ([CAT, "kernal=blur"], "no such key.*kernel"),
        ([CAT, "blur"], "expected key=value"),
        ([CAT, "kernel=blurr"], "did you mean blur"),
        ([CAT, "kernel=[[1,2],[3]]"], "rows have 2, 1 numbers"),
        ([CAT, "stride=0"], "stride=0: expected a whole number of at least 1"),
        ([CAT, "stride=1.5"], "stride=1.5: expected a whole number"),
        ([CAT, "stride=two"], "stride=two: expected a number"),
        ([CAT, "padding=-1"], "padding=-1: expected a whole number of at least 0"),
        ([CAT, "padding=valid"], "padding=valid"),
        ([CAT, "padding=9999"], "padding=9999 is wider than the image; try padding=150 or less"),
        ([CAT, "pooling=mean"], "pooling=mean: no such pooling"),
        (
            [CAT, "pooling=max", "pool_size=400"],
            "pool_size=400: .* try pool_size=98 or less",
        ),
        ([CAT, "pool_size=0"], "pool_size=0: expected a whole number"),
        ([CAT, "at=5"], "at=5: expected row,column"),
        ([CAT, "at=-1,5"], "at=-1,5: expected row,column"),
        ([CAT, "at=5,500"], "at=5,500: the output has"),
        ([CAT, "size=0"], "size=0: expected a whole number"),
        ([CAT, "size=9999"], "size=9999: .* 512"),
        ([CAT, "size=2"], "larger than the padded image.*padding=1"),
        ([CAT, f"kernel={[[1] * 16]}"], "1×16 weights are too many.*at most 15×15"),
        ([CAT, "run_dir=file"], "run_dir=file: .*choose another run_dir"),
        ([CAT, "run_dir=file/below"], "run_dir=file/below: .*choose another run_dir"),
        ([CAT, "run_dir=full"], "already contains kernel.jpg"),
        (["image=nowhere.jpg"], "cannot read nowhere.jpg: the file is missing"),
        (["image=file"], "cannot read file: its content .text. is not in a supported"),
        (["image="], "directory"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(at, words, message):
    (at / "file").write_text("text")
    (at / "full").mkdir()
    (at / "full" / "kernel.jpg").write_text("a picture of mine")
    before = sorted(at.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        command.run(words)
    assert "\n" not in str(caught.value)
    assert sorted(at.rglob("*")) == before
    assert (at / "full" / "kernel.jpg").read_text() == "a picture of mine"


def test_damaged_files_are_named(damaged):
    for path in damaged.values():
        with pytest.raises(ImageError, match=re.escape(str(path))):
            decode_in_proportion(path, 50)
