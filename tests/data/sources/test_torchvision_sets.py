"""MNIST, CIFAR-10 and the flowers: used where they lie, downloaded whole, checked."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from convlens.core.downloads import fetch
from convlens.core.errors import UserError
from convlens.data.sources.archives import FLOWERS
from convlens.data.sources.torchvision_sets import CIFAR10_CLASSES, read_cifar10, read_mnist
from support.places import SHARED
from support.served import NOWHERE, Quiet, Short


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_mnist(folder: Path, packed: bool = True, seed: int = 0) -> dict:
    """Miniature MNIST files in ``folder``; the arrays they hold."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for split, prefix, count in (("train", "train", 30), ("test", "t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        truth[split] = (images[..., None], labels.astype(np.int64))
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return truth


def assert_same(found: dict, truth: dict) -> None:
    assert found.keys() == truth.keys()
    for split, (images, labels) in truth.items():
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)
        assert found[split][0].dtype == np.uint8 and found[split][1].dtype == np.int64


def test_real_mnist_is_read_where_it_lies(shared):
    folder = shared / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST in {folder}")
    before = sorted(p.name for p in folder.rglob("*"))
    found = read_mnist(folder, download=False)
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert found["train"][0].shape == (60000, 28, 28, 1)
    assert found["test"][0].shape == (10000, 28, 28, 1)
    assert found["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(found["test"][1]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert abs(found["train"][0].mean() / 255 - 0.1307) < 1e-4  # everybody's normalisation


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["MNIST/raw", "raw", ""])
def test_mnist_layouts(tmp_path, below, packed):
    truth = small_mnist(tmp_path / below, packed)
    before = sorted(tmp_path.rglob("*"))
    assert_same(read_mnist(tmp_path, download=False), truth)
    assert sorted(tmp_path.rglob("*")) == before


def test_mnist_equals_torchvision(tmp_path):
    small_mnist(tmp_path / "MNIST" / "raw", packed=False)
    theirs, ours = (
        datasets.MNIST(tmp_path, train=True),
        read_mnist(tmp_path, download=False)["train"],
    )
    np.testing.assert_array_equal(theirs.data.numpy(), ours[0][..., 0])
    np.testing.assert_array_equal(theirs.targets.numpy(), ours[1])


def test_mnist_download_is_torchvisions_with_its_checksums(tmp_path, serve, monkeypatch):
    address, folder = serve()
    truth = small_mnist(folder)
    sums = [
        (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for name, _ in datasets.MNIST.resources
    ]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [NOWHERE, address])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    target = tmp_path / "data"
    assert_same(read_mnist(target), truth)
    assert [p.name for p in target.iterdir()] == ["MNIST"]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [NOWHERE])
    assert_same(read_mnist(target), truth)  # not downloaded again

    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    (folder / sums[3][0]).write_bytes(b"something else")
    with pytest.raises(UserError, match="cannot be downloaded"):
        read_mnist(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_mnist_missing_names_folder_files_and_address(tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        read_mnist(tmp_path / "none", download=False)
    for word in (tmp_path / "none", "t10k-labels-idx1-ubyte.gz", datasets.MNIST.mirrors[0]):
        assert str(word) in str(caught.value)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [NOWHERE])
    with pytest.raises(UserError) as caught:
        read_mnist(tmp_path / "none")
    assert "cannot be downloaded" in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="MNIST is not in"):
        read_mnist(tmp_path / "file" / "below")


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_mnist_is_named(tmp_path, packed):
    small_mnist(tmp_path, packed)
    path = sorted(tmp_path.glob("train-images*"))[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train-images.* is damaged .*remove it"):
        read_mnist(tmp_path)


def test_mnist_files_that_do_not_belong_together(tmp_path):
    small_mnist(tmp_path, packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(7, np.uint8)))
    with pytest.raises(UserError, match="do not match"):
        read_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(20, 26, np.uint8)))
    with pytest.raises(UserError, match="label 26"):
        read_mnist(tmp_path)


# --------------------------------------------------------------------------------------- CIFAR-10


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """Miniature CIFAR-10 files, torchvision told their checksums: (folder, archive, truth)."""
    rng = np.random.default_rng(0)
    source = datasets.CIFAR10
    folder = tmp_path / "made" / source.base_folder
    folder.mkdir(parents=True)
    content, pixels, labels = {}, {}, {}
    for name in [name for name, _ in (*source.train_list, *source.test_list)]:
        pixels[name] = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        labels[name] = rng.integers(0, 10, 20).tolist()
        content[name] = {"data": pixels[name], "labels": labels[name]}
    content["batches.meta"] = {"label_names": list(CIFAR10_CLASSES)}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
    archive = tmp_path / "made" / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, source.base_folder)

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    for key in ("train_list", "test_list"):
        names = [name for name, _ in getattr(source, key)]
        monkeypatch.setattr(source, key, [[name, md5(folder / name)] for name in names])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    monkeypatch.setattr(source, "url", NOWHERE + source.filename)

    def stacked(names):
        planes = np.concatenate([pixels[name] for name in names]).reshape(-1, 3, 32, 32)
        return planes.transpose(0, 2, 3, 1), np.concatenate([labels[name] for name in names])

    names = list(pixels)
    return folder, archive, {"train": stacked(names[:5]), "test": stacked(names[5:])}


def test_cifar10_layouts_and_equality_with_torchvision(small_cifar, tmp_path):
    folder, archive, truth = small_cifar
    assert_same(read_cifar10(folder, download=False), truth)
    assert_same(read_cifar10(folder.parent, download=False), truth)
    alone = tmp_path / "alone"
    alone.mkdir()
    os.link(archive, alone / archive.name)
    assert_same(read_cifar10(alone, download=False), truth)
    assert [p.name for p in alone.iterdir()] == [archive.name]  # not unpacked next to it
    theirs = datasets.CIFAR10(folder.parent, train=True)
    np.testing.assert_array_equal(theirs.data, truth["train"][0])


def test_cifar10_download(small_cifar, tmp_path, serve, monkeypatch):
    _, archive, truth = small_cifar
    with pytest.raises(UserError, match=r"CIFAR-10 is not in .*cannot be downloaded"):
        read_cifar10(tmp_path / "new")
    address, folder = serve()
    os.link(archive, folder / archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + archive.name)
    assert_same(read_cifar10(tmp_path / "new"), truth)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [datasets.CIFAR10.base_folder]


def test_a_changed_cifar_pickle_is_never_opened(small_cifar):
    folder, _, _ = small_cifar
    (folder / "data_batch_3").write_bytes(b"cos\nabort\n(tR.")  # would end the process
    with pytest.raises(UserError, match=r"data_batch_3 in .* is damaged"):
        read_cifar10(folder, download=False)


def test_missing_and_broken_cifar10(tmp_path):
    with pytest.raises(UserError, match=r"put cifar-10-python\.tar\.gz there, from https://"):
        read_cifar10(tmp_path, download=False)
    (tmp_path / datasets.CIFAR10.filename).write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged"):
        read_cifar10(tmp_path, download=False)


# -------------------------------------------------------------------------------------- downloads


def test_fetch(tmp_path, serve):
    address, folder = serve()
    data = os.urandom(1 << 20)
    (folder / "f.bin").write_bytes(data)
    sums = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
    target = fetch(address + "f.bin", tmp_path / "deep" / "f.bin", **sums)
    assert target.read_bytes() == data and os.listdir(target.parent) == ["f.bin"]
    assert (
        fetch(NOWHERE, target, **sums) == target
    )  # there already: nothing is asked of the network
    with pytest.raises(UserError, match="is not the file that"):
        fetch(NOWHERE, target, md5="0" * 32)


@pytest.mark.parametrize(
    ("handler", "name", "sums", "answer"),
    [
        (Quiet, "none.bin", {}, "the server says 404"),
        (Quiet, "f.bin", {"sha256": "0" * 64}, "another sha256"),
        (Quiet, "f.bin", {"md5": "0" * 32}, "another md5"),
        (Short, "f.bin", {}, "bytes arrived"),
    ],
)
def test_fetch_leaves_nothing_behind(tmp_path, serve, handler, name, sums, answer):
    address, folder = serve(handler)
    (folder / "f.bin").write_bytes(b"12345")
    with pytest.raises(UserError, match=answer) as caught:
        fetch(address + name, tmp_path / "new" / "f.bin", **sums)
    assert address + name in str(caught.value) and "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_fetch_without_a_server_or_a_folder(tmp_path):
    with pytest.raises(UserError, match="cannot download http"):
        fetch(NOWHERE + "x", tmp_path / "x")
    with pytest.raises(UserError, match="cannot download"):
        fetch("no address", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        fetch(NOWHERE, tmp_path / "file" / "x")


def archive_of(path: Path, members: dict[str, bytes]) -> str:
    """Write a .tgz of files; its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flower_members(classes=FLOWERS.folders) -> dict[str, bytes]:
    return {"flower_photos/LICENSE.txt": b"CC-BY"} | {
        f"flower_photos/{name}/1.jpg": name.encode() for name in classes
    }


def flowers(folder: Path, address: str, sha256: str | None = None) -> None:
    """Download from another address; without a checksum, with that of the real archive."""
    sums = FLOWERS.checksums if sha256 is None else {"flower_photos.tgz": sha256}
    replace(FLOWERS, addresses=(address,), checksums=sums).download(folder)


def test_flowers(tmp_path, serve):
    address, folder = serve()
    sha256 = archive_of(folder / "flower_photos.tgz", flower_members())
    target = tmp_path / "data" / "flowers"
    for source in (address, NOWHERE):  # the second time nothing is downloaded
        flowers(target, source, sha256)
        names = sorted(p.name for p in target.iterdir() if p.is_dir())
        assert names == list(FLOWERS.folders)
    assert os.listdir(target.parent) == ["flowers"]
    with pytest.raises(UserError, match="another sha256"):
        flowers(tmp_path / "b", address)


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        (flower_members() | {"../escaped.txt": b"x"}, "cannot unpack"),
        (flower_members(("daisy", "roses")), "have no folder dandelion/"),
        ({"a/1.jpg": b""}, "have no folder daisy/"),
    ],
)
def test_bad_flower_archives(tmp_path, serve, members, answer):
    address, folder = serve()
    sha256 = archive_of(folder / "flower_photos.tgz", members)
    with pytest.raises(UserError, match=answer):
        flowers(tmp_path / "data" / "flowers", address, sha256)
    assert list((tmp_path / "data").iterdir()) == []
    assert not (tmp_path / "escaped.txt").exists()


def test_flowers_that_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match=r"put class folders into .*flowers yourself"):
        flowers(tmp_path / "flowers", NOWHERE)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot (use|put)"):
        flowers(tmp_path / "file" / "flowers", NOWHERE)
