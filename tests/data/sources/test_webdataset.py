"""``data=webdataset``: samples are those that the ``webdataset`` package reads from the shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.core.errors import UserError
from convlens.data.sources.webdataset import read_shard
from support.annotated_made import load

REASON = "the package webdataset is not installed"
WORDS = ["data=webdataset", "data.size=24"]


def pixels_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 24, 3)).astype(np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_of(number)).save(file, "PNG")
    return file.getvalue()


def members(numbers: Iterable[int]) -> list[tuple[str, bytes]]:
    """Return an image and a class, the number modulo 3, for each number."""
    return [
        each for n in numbers
        for each in ((f"a/{n:04d}.png", png(n)), (f"a/{n:04d}.cls", str(n % 3).encode()))
    ]  # fmt: skip


def shard(path: Path, content: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "shards"
    shard(root / "train-000000.tar", members(range(9)))
    shard(root / "train-000001.tar", members(range(9, 18)))
    shard(root / "val-000000.tar", members(range(100, 106)))
    shard(root / "test-000000.tar", members(range(200, 206)))
    return root


def data(root: Path, *words: str):
    return load(*WORDS, f"data.dir={root}", *words)


def refused(root: Path, *words: str) -> str:
    with pytest.raises(UserError) as error:
        data(root, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def found(module) -> dict[bytes, tuple[str, str]]:
    """Return by pixels: split and class of every image."""
    return {
        images.pixels(np.array([row]))[0].tobytes(): (split, module.class_names[images.labels[row]])
        for split, images in module.dataset.splits.items()
        for row in range(len(images))
    }


def test_samples_are_those_that_webdataset_reads(root):
    webdataset = pytest.importorskip("webdataset", reason=REASON)
    want = {}
    for path in sorted(root.glob("*.tar")):
        split = {"tra": "train", "val": "validation", "tes": "test"}[path.name[:3]]
        for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8"):
            want[sample["png"].tobytes()] = (split, str(sample["cls"]))
    assert len(want) == 30 and found(data(root)) == want


def test_shards_that_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason=REASON)
    pattern = str(tmp_path / "train-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
        for n in range(20):
            writer.write({"__key__": f"x{n}", "png": pixels_of(n), "json": {"kind": "ab"[n % 2]}})
    module = data(tmp_path, "data.label_member=json.kind", "data.split.test=0.2")
    assert {pixels: label for pixels, (_, label) in found(module).items()} == {
        pixels_of(n).tobytes(): "ab"[n % 2] for n in range(20)
    }


@pytest.mark.parametrize("seed", range(5))
def test_members_are_grouped_as_webdataset_groups_them(tmp_path, seed):
    """Names with dots, folders, capitals, meta members and names without a suffix."""
    webdataset = pytest.importorskip("webdataset", reason=REASON)
    rng = np.random.default_rng(seed)
    folders, stems = ["", "a/", "a.b/", "./", "a/b.c/"], ["1", "x y", "é", "2"]
    suffixes = ["jpg", "seg.png", "CLS", "json", "txt.gz"]
    names = [
        f"{rng.choice(folders)}{rng.choice(stems)}{n}.{suffix}"
        for n in range(12)
        for suffix in rng.choice(suffixes, 2, replace=False)
    ]
    names += ["__meta__/x.json", "__readme__", "noname", ".hidden", "b/.hidden.jpg"]
    path = shard(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    want = [
        (sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")})
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert list(read_shard(path)) == want


def test_splits_from_folders_and_from_the_end_of_a_name(tmp_path):
    for n, name in enumerate(["train", "valid", "test"]):
        shard(tmp_path / "a" / name / "00000.tar", members(range(100 * n, 100 * n + 9)))
        shard(tmp_path / "b" / f"flowers-{name}_0.tar", members(range(100 * n, 100 * n + 9)))
    for folder in "ab":
        counts = data(tmp_path / folder).index.counts
        assert {split: int(c.sum()) for split, c in counts.items()} == {
            "train": 9, "validation": 9, "test": 9,
        }  # fmt: skip


def test_shards_without_splits_are_split(tmp_path):
    shard(tmp_path / "00000.tar", members(range(20)))
    shard(tmp_path / "00001.tar", members(range(20, 40)))
    counts = data(tmp_path).index.counts
    assert {split: int(count.sum()) for split, count in counts.items()} == {
        "train": 28, "validation": 6, "test": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "label", "words", "name"),
    [
        ("cls", b"7\n", [], "7"),
        ("cls", "Löwe".encode(), [], "Löwe"),
        ("txt", "\ufeffLöwe \r\n".encode(), [], "Löwe"),
        ("json", b'{"label": "x", "age": 3}', ["data.label_member=json.label"], "x"),
        ("json", b'{"a.b": 3}', ["data.label_member=json.a.b"], "3"),
        ("txt", b"x", ["data.label_member=txt"], "x"),
    ],
)
def test_labels_of_every_member(tmp_path, suffix, label, words, name):
    content = [(f"{n}.png", png(n)) for n in range(40)]
    other = {"cls": b"other", "txt": b"other"}.get(suffix, json.dumps({
        "label": "other", "a.b": "other"}).encode())  # fmt: skip
    content = [
        each for n, (key, image) in enumerate(content)
        for each in ((key, image), (f"{n}.{suffix}", label if n % 2 else other))
    ]  # fmt: skip
    shard(tmp_path / "s.tar", content)
    assert set(data(tmp_path, *words).class_names) == {name, "other"}


def test_a_label_that_only_the_user_can_tell(tmp_path):
    content = [(f"1.{suffix}", b"1") for suffix in ("jpg", "txt", "json")]
    message = refused(shard(tmp_path / "s" / "s.tar", content).parent)
    assert "txt and json" in message and "data.label_member=json.FIELD" in message
    message = refused(shard(tmp_path / "t" / "s.tar", [("1.jpg", b""), ("1.npy", b"")]).parent)
    assert "no .cls, .txt or .json: its members are jpg, npy" in message
    assert "data.label_member=jpg" in refused(tmp_path / "s", "data.label_member=jpg")


def test_incomplete_samples_are_counted(root):
    content = [*members(range(9, 18)), ("x.png", png(1)), ("y.cls", b"1"), ("z.png", png(2)),
               ("z.cls", b" ")]  # fmt: skip
    shard(root / "train-000001.tar", content)
    notes = data(root).index.notes
    assert "left out: 1 sample without an image, the first: y in train-000001.tar" in notes
    assert "left out: 2 samples without a label, the first: x in train-000001.tar" in notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([("1.png", b""), ("1.png", b"")], "1.png twice"),
        ([("1.png", b""), ("1.jpg", b""), ("1.cls", b"0")], "png and jpg: keep one image"),
        ([*members([1]), *members([2]), *members([1])], "two samples a/0001"),
        ([("1.png", b""), ("1.cls", b"\xff\xff")], "its .cls is not UTF-8"),
    ],
)
def test_damaged_samples_are_one_line(root, content, words):
    path = shard(root / "train-000001.tar", content)
    assert words in refused(root) and str(path) in refused(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"label": ', "its JSON is broken"),
        ('{"label": ["a", "b"]}', "label is ['a', 'b'], neither a text nor a whole number"),
        ('{"label": true}', "label is True"),
        ('{"label": 0.5}', "label is 0.5"),
        ("[" * 100_000, "its JSON is broken"),
    ],
)
def test_damaged_json_is_one_line(tmp_path, text, words):
    shard(tmp_path / "s.tar", [("1.png", png(1)), ("1.json", text.encode())])
    assert words in refused(tmp_path, "data.label_member=json.label")


@pytest.mark.parametrize("cut", ["member", "header", "image", "end"])
def test_a_shard_that_ends_early(root, cut):
    path = root / "train-000001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
    place = {
        "member": infos[8].offset,  # a whole number of samples
        "header": infos[9].offset + 100,
        "image": infos[10].offset_data + 50,
        "end": infos[-1].offset_data + 512,  # everything but the end marker
    }[cut]
    path.write_bytes(content[:place])
    message = refused(root)
    assert str(path) in message and "ends early" in message
    module = data(root, "data.on_error=skip")
    (note,) = (note for note in module.index.notes if "1 shard ends early" in note)
    assert "train-000001.tar" in note
    complete = {"member": 3, "header": 4, "image": 4, "end": 8}[cut]  # the last may lack members
    assert int(module.index.counts["train"].sum()) == 9 + complete


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(root):
    path = root / "train-000001.tar"
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[8].offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 512] = b"\xaa" * 512
    path.write_bytes(content)
    assert "ends early" in refused(root)


@pytest.mark.parametrize("content", [b"", b"no tar" * 200, b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_file(root, content):
    (root / "train-000001.tar").write_bytes(content)
    assert "train-000001.tar" in refused(root)


def test_a_sparse_member_cannot_claim_gigabytes(root):
    path = root / "train-000001.tar"
    info = tarfile.TarInfo("1.png")
    info.size = 0
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    assert "train-000001.tar" in refused(root)


def test_names_in_an_archive_choose_no_place_to_write(tmp_path):
    names = ["../../up", "/root/abs", "a/../../b", "con", "x" * 200, "q\"'\n"]
    content = [
        each for n, name in enumerate(names * 4)
        for each in ((f"{name}{n}.png", png(n)), (f"{name}{n}.cls", b"ab"[n % 2 : n % 2 + 1]))
    ]  # fmt: skip
    shard(tmp_path / "s" / "s.tar", content)
    before = set(tmp_path.rglob("*"))
    listing = data(tmp_path / "s").index.listing
    assert set(tmp_path.rglob("*")) == before
    assert len(listing) == 24
    assert all(file.resolve().is_relative_to(listing.directory.resolve()) for file in listing.files)


def test_no_shards(tmp_path):
    assert "no .tar files" in refused(tmp_path)
    assert "no folder" in refused(tmp_path / "none")


def test_numbers_are_lines_of_a_file_of_names(root, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\ufeffzebra\ncät \nant\n\n", encoding="utf-8")
    plain, named = found(data(root)), found(data(root, f"data.class_names={names}"))
    by_number = {"0": "zebra", "1": "cät", "2": "ant"}
    assert named == {key: (split, by_number[label]) for key, (split, label) in plain.items()}
    names.write_text("zebra\nant\n")
    message = refused(root, f"data.class_names={names}")
    assert "label of a/0" in message and "0 to 1" in message
    names.write_text("zebra\nant\nant\n")
    assert "2 classes are called 'ant'" in refused(root, f"data.class_names={names}")
    assert "data.class_names" in refused(root, f"data.class_names={tmp_path / 'none.txt'}")
