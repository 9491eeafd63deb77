"""Oxford-IIIT Pet's download: whole and checked, or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import has_fcntl

from convlens.core.errors import UserError
from convlens.data.sources.archives import PETS
from convlens.data.sources.pets import list_pets
from support.served import NOWHERE, Quiet

MD5 = PETS.checksums


def pets(folder: Path, addresses: list[str], md5: dict[str, str]) -> Path:
    """Download from other addresses."""
    replace(PETS, addresses=tuple(addresses), checksums=md5).download(folder)
    return folder


def pack(source: Path, folder: Path) -> dict[str, str]:
    """The two archives of a miniature in ``folder``; their MD5 by name."""
    sums = {}
    for name in MD5:
        inner = name.split(".")[0]
        with tarfile.open(folder / name, "w:gz") as tar:
            tar.add(source / inner, inner)
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    return sums


def test_download(drawn, tmp_path, serve, capsys):
    address, folder = serve()
    sums = pack(drawn, folder)
    target = tmp_path / "data" / "pets"
    for addresses in ([NOWHERE, address], [NOWHERE]):  # the second time nothing is downloaded
        assert pets(target, addresses=addresses, md5=sums) == target
        assert os.listdir(target.parent) == ["pets"]
    assert f"trying {address}" in capsys.readouterr().err  # of the first address, dead
    assert sorted(os.listdir(target)) == ["annotations", "images"]
    ours, theirs = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (target, drawn)
    )
    assert ours == theirs
    assert len(list_pets(target, "breeds")) == 44
    (tmp_path / "empty").mkdir()
    assert pets(tmp_path / "empty", addresses=[address], md5=sums).is_dir()
    assert len(list_pets(tmp_path / "empty", "breeds")) == 44


def test_bad_archives_leave_nothing(drawn, tmp_path, serve):
    address, folder = serve()
    sums = pack(drawn, folder)

    def refused(said: str, md5: dict[str, str]) -> None:
        with pytest.raises(UserError, match=said) as caught:
            pets(tmp_path / "data" / "pets", addresses=[address], md5=md5)
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "data").iterdir()) == []

    refused("another md5 than expected.*images.tar.gz and annotations.tar.gz from https", MD5)
    refused("another md5", {**sums, "annotations.tar.gz": MD5["annotations.tar.gz"]})
    for name in MD5:
        path = folder / name
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"no archive"):
            path.write_bytes(content)
            refused(f"cannot unpack {name}", {**sums, name: hashlib.md5(content).hexdigest()})
        path.write_bytes(whole)
    (drawn / "annotations" / "trimaps").rename(drawn / "annotations" / "masks")
    refused("have no folder annotations/trimaps/, so they are not Oxford", pack(drawn, folder))
    path = folder / "annotations.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(drawn / "annotations" / "test.txt", "../escaped.txt")
    escaping = hashlib.md5(path.read_bytes()).hexdigest()
    now = hashlib.md5((folder / "images.tar.gz").read_bytes()).hexdigest()
    refused("cannot unpack annotations", {"images.tar.gz": now, "annotations.tar.gz": escaping})
    assert not list(tmp_path.rglob("escaped.txt"))


def test_no_server_and_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"images.tar.gz: .* or unpack images.tar.gz and annotat"):
        pets(tmp_path / "pets", [NOWHERE], MD5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use .*file for Oxford-IIIT Pet: Not a directory"):
        pets(tmp_path / "file", [NOWHERE], MD5)
    with pytest.raises(UserError, match=r"cannot (use|put) .*Not a directory"):
        pets(tmp_path / "file" / "pets", [NOWHERE], MD5)


class Hanging(Quiet):
    """Sends the images; of the annotations only a part, and waits."""

    let_go = threading.Event()

    def do_GET(self):
        if "annotations" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"x" * 1000)
        self.wfile.flush()
        self.let_go.wait(30)


@pytest.mark.skipif(not has_fcntl, reason="needs locks")
def test_killed_half_way_leaves_nothing_that_counts(drawn, tmp_path, serve):
    address, folder = serve(Hanging)
    sums = pack(drawn, folder)
    target = tmp_path / "data" / "pets"
    code = "import sys, json, dataclasses, pathlib; "
    code += "from convlens.data.sources.archives import PETS; "
    code += "dataclasses.replace(PETS, addresses=(sys.argv[2],), checksums=json.loads(sys.argv[3]))"
    code += ".download(pathlib.Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", code, target, address, json.dumps(sums)])
    try:
        deadline = time.monotonic() + 30
        while not list(target.parent.glob(".pets.download/.annotations*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        Hanging.let_go.set()
    assert not target.exists()
    assert os.listdir(target.parent) == [".pets.download"]  # hidden, and gone at the next run
    with pytest.raises(UserError, match="cannot download"):
        pets(target, addresses=[NOWHERE], md5=sums)
    assert os.listdir(target.parent) == []


def test_two_at_once_download_once(drawn, tmp_path, serve):
    asked = []

    class Slow(Quiet):
        def do_GET(self):
            asked.append(self.path)
            time.sleep(0.2)
            super().do_GET()

    address, folder = serve(Slow)
    sums = pack(drawn, folder)
    target = tmp_path / "data" / "pets"
    threads = [
        threading.Thread(target=pets, args=(target,), kwargs={"addresses": [address], "md5": sums})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == ["/annotations.tar.gz", "/images.tar.gz"]
    assert os.listdir(target.parent) == ["pets"]
