"""A name with composed letters (NFC) and one with letters and marks (NFD) are the same name."""

from __future__ import annotations

import csv
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from convlens.callbacks import GradCam, OcclusionMaps

import convlens
from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.index.files import Files
from convlens.data.index.listing import list_images
from convlens.data.index.names import find_on_disk, normalise_name
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import resolve_splits
from convlens.data.probes import load_user_probes
from convlens.data.sources.registry import build_index
from convlens.data.unchanged import check_state, write_state
from support.tiny import TINY, draw_folder


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


CAFE, NINO = "café", "niño"
FORMS = pytest.mark.parametrize("form", ["NFC", "NFD"])


def indexed(folder: Path, *more: str):
    spec = compose(["data=image_folder", f"data.dir={folder}", "data.size=16", *more]).data
    return build_index(spec, 0)


@pytest.fixture
def files(tmp_path, form) -> Path:
    """A folder whose names, its own among them, are spelt in one form."""
    spelt = {unicodedata.normalize(form, name): 10 for name in (CAFE, NINO, "the")}
    return draw_folder(tmp_path / unicodedata.normalize(form, "señal"), spelt)


@FORMS
def test_a_table_and_its_files(files, form, tmp_path):
    other = {"NFC": nfd, "NFD": normalise_name}[form]
    lines = [f"{other(CAFE)}/{i}.png,{nfd(CAFE) if i % 2 else CAFE}" for i in range(10)]
    lines += [f"{other(NINO)}/{i}.png,{other(NINO)}" for i in range(10)]
    table = tmp_path / other("éti.csv")
    table.write_text("file,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = indexed(tmp_path / other("señal"), f"data.csv={table}").listing
    assert found.class_names == (CAFE, NINO)
    assert np.bincount(found.labels).tolist() == [10, 10]
    assert all(file.is_file() for file in found.files)


@FORMS
def test_one_file_named_in_both_spellings_is_named_twice(files, form):
    lines = [f"{CAFE}/0.png,a", "the/0.png,b", f"{nfd(CAFE)}/0.png,b"]
    (files / "t.csv").write_text("file,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="twice, in lines 2 and 4"):
        indexed(files, "data.csv=t.csv")


def test_splits_that_spell_a_class_in_two_ways_have_the_same_class(tmp_path):
    folder = draw_folder(tmp_path / "d", {
        f"train/{CAFE}": 4, "train/the": 4, f"validation/{nfd(CAFE)}": 2, "validation/the": 2,
        f"test/{CAFE}": 2, "test/the": 2,
    })  # fmt: skip
    found = indexed(folder)
    assert found.class_names == (CAFE, "the")
    assert found.counts["validation"].tolist() == [2, 2]


@FORMS
def test_patterns_read_the_same_classes_and_match_accents(tmp_path, form):
    folder = draw_folder(tmp_path / "d", {".": 12})
    for i in range(12):
        name = f"{CAFE if i % 2 else NINO}é.{i}.png"
        (folder / f"{i}.png").rename(folder / unicodedata.normalize(form, name))
    for pattern in ("{class}é.*", nfd("{class}é.*"), "{class}?.{number}.png"):
        assert list_images(folder, pattern=pattern).class_names == (CAFE, NINO)


@FORMS
def test_probes_of_ones_own_know_their_class(files, form):
    other = {"NFC": nfd, "NFD": normalise_name}[form]
    spec = compose(["data=image_folder", "data.size=16"]).data
    probes = load_user_probes([str(files.parent / other("señal") / other(CAFE) / "0.png")],
                        ("the", other(CAFE)), spec)  # fmt: skip
    assert probes.labels.tolist() == [1]
    own = [str(files / unicodedata.normalize(form, NINO) / "1.png")]
    assert load_user_probes(own, (NINO, "the"), spec).labels.tolist() == [0]


def test_split_files_and_states_read_on_a_file_system_that_spells_otherwise(tmp_path):
    mine = draw_folder(tmp_path / "nfc", {CAFE: 8, f"cafz {NINO}": 8, "the": 8})
    for i in range(8):
        (mine / CAFE / f"{i}.png").rename(mine / CAFE / f"é{i}{'abcz'[i % 4]}.png")
    theirs = tmp_path / "nfd"
    for file in mine.rglob("*.png"):
        target = theirs / nfd(file.relative_to(mine).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file)
    first, second = (resolve_splits(list_images(folder), validation=6, test=6, seed=3)
                     for folder in (mine, theirs))  # fmt: skip
    assert list(first.files.names()) != list(second.files.names())
    assert list(map(normalise_name, second.files.names())) == list(first.files.names()), (
        "in one order"
    )
    assert first.class_names == second.class_names
    assert (first.splits == second.splits).all()
    write_split(tmp_path / "split.csv", first)
    assert (read_split(tmp_path / "split.csv", second).splits == first.splits).all()
    rows = (tmp_path / "split.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "split.csv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n", encoding="utf-8")
    assert (read_split(tmp_path / "split.csv", second).splits == first.splits).all()
    digests = np.arange(1, len(first) + 1)
    write_state(tmp_path / "pictures.csv", first, digests)
    assert check_state(tmp_path / "pictures.csv", second, digests) == ""


def test_old_split_files_with_marks_apart_are_read(tmp_path):
    folder = draw_folder(tmp_path / "d", {CAFE: 6, "the": 6})
    listing = resolve_splits(list_images(folder), validation=2, test=2, seed=0)
    old = replace(
        listing, class_names=(nfd(CAFE), "the"),
        files=Files.of([folder / nfd(name) for name in listing.files.names()], folder),
    )  # fmt: skip
    write_split(tmp_path / "split.csv", old)
    assert (read_split(tmp_path / "split.csv", listing).splits == listing.splits).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("run")
    folder = draw_folder(home / "d", {nfd(CAFE): 10, nfd(NINO): 10}, size=16)
    words = ["data=image_folder", f"data.dir={folder}", "callbacks=none", "training.epochs=1"]
    assert main(["train", *TINY[1:], *words, f"run_dir={home / 'run'}"]) == 0
    return home


def test_a_checkpoint_is_asked_and_tested_in_either_spelling(run, at, tmp_path):
    ckpt = run / "run" / "checkpoints" / "best.ckpt"
    explainer = convlens.load(ckpt, device="cpu")
    assert explainer.class_names == (CAFE, NINO)
    picture = run / "d" / nfd(CAFE) / "0.png"
    for name in (NINO, nfd(NINO)):
        assert explainer.explain(picture, target=name, only="grad_cam").targets == (1,)
    words = [f"ckpt={ckpt}", f"image={run / 'd' / CAFE / '0.png'}", "only=grad_cam"]
    assert main(["explain", *words, f"run_dir={tmp_path / 'why'}"]) == 0
    assert main(["predict", f"ckpt={ckpt}", f"images={run / 'd' / CAFE}",
                 f"run_dir={tmp_path / 'said'}"]) == 0  # fmt: skip
    others = draw_folder(tmp_path / "others", {CAFE: 2, NINO: 3}, size=16, seed=5)
    assert main(["eval", f"ckpt={ckpt}", f"data.dir={others}"]) == 0


def test_targets_of_callbacks(run):
    for callback in (GradCam(target=nfd(CAFE)), OcclusionMaps(target=nfd(CAFE))):
        callback.class_names = (CAFE, NINO)
        network = convlens.load(run / "run" / "checkpoints" / "best.ckpt", device="cpu").network
        callback.select_layers(network, torch.zeros(1, 3, 16, 16))


def test_a_run_of_old_whose_classes_have_marks_apart_is_tested_by_name(run, at, tmp_path):
    content = torch.load(run / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["class_names"] = [nfd(CAFE), nfd(NINO)]
    torch.save(content, tmp_path / "old.ckpt")
    others = draw_folder(tmp_path / "others", {CAFE: 2, NINO: 3}, size=16, seed=5)
    assert main(["eval", f"ckpt={tmp_path / 'old.ckpt'}", f"data.dir={others}"]) == 0


def test_two_files_of_one_name_in_two_spellings_are_not_guessed(tmp_path):
    mixed = nfd("é") + "é"
    (tmp_path / mixed).touch()
    assert find_on_disk(tmp_path / normalise_name(mixed)) == tmp_path / mixed
    (tmp_path / nfd(mixed)).touch()
    assert find_on_disk(tmp_path / nfd(mixed)) == tmp_path / nfd(mixed), "as it was given"
    with pytest.raises(UserError, match="2 entries called"):
        find_on_disk(tmp_path / normalise_name(mixed))
    assert find_on_disk(tmp_path / "nö") == tmp_path / "nö"


def test_tables_of_a_run_have_one_spelling(run):
    with open(run / "run" / "split.csv", newline="", encoding="utf-8") as text:
        assert {row["label"] for row in csv.DictReader(text)} == {CAFE, NINO}
