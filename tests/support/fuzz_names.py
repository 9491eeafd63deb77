"""Names of class folders and files: anything that a file system accepts."""

from __future__ import annotations

import csv
import io
import os
import shutil
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from convlens.core.errors import UserError
from convlens.data.index.listing import list_images
from convlens.data.index.names import normalise_name
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import resolve_splits
from convlens.data.pixels.dataset import Images
from convlens.data.probes import choose_probes
from convlens.draw.confusion_matrix import confusion_matrix
from convlens.draw.jpeg import encode_jpeg
from convlens.experiment.predict import write_table
from convlens.pages.explained import PageParts, render_page
from support.fuzz_surface import ACCEPTED, REFUSED, Surface, expect

AWKWARD = (
    "cat", "Cat", "CAT", "a b", " lead", "trail ", "new\nline", "carriage\rreturn", "tab\tbed",
    'quo"te', "apo's", "com,ma", "semi;colon", "equals=1", "[brackets]", "{class}", "{{ 7*7 }}",
    "{% raw %}", "${oc.env:HOME}", "-dash", "--help", "~", "a\\b", "CON", "nul", "..dots", "a.b.",
    "<b>bold</b>", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style>",
    "<!--", "&amp;", "&lt;script&gt;", "javascript:alert(1)", "' onmouseover='x", "\u202eevil",
    "\u0645\u0631\u062d\u0628\u0627", "\u732b", "\U0001f408", "e\u0301", "\u00e9", "\u200b",
    "\ufeff",
    "a\u0300" * 60, "x" * 255, "\U0001f408" * 63, "1", "true", "null", "=1+1", "@SUM(A1)", "%s%n",
    "f1", "loss", "accuracy", "train", "test", "a:b", "a|b", "a*b", "a?b", "\x01", "\x1b[31mred",
    "\x7f", "\u2028", "\x85", "\udcff\udcfe",
)  # fmt: skip


def fits(name: str) -> bool:
    """Return whether the file system accepts it as one visible name."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    unfit = not name or name[0] == "." or "/" in name or "\0" in name
    return not unfit and len(encoded) <= 255


letters = st.text(
    st.characters(exclude_categories=()).filter(lambda c: c not in "/\0"), min_size=1, max_size=40
)
name = st.one_of(st.sampled_from(AWKWARD), letters, st.builds("{}{}".format, letters, letters))
classes = st.lists(name.filter(fits), min_size=2, max_size=4, unique=True)
stems = st.lists(name.filter(lambda n: fits(f"{n}.png")), min_size=1, max_size=2, unique=True)


class _Skeleton(HTMLParser):
    """Collects the tags and attribute names of a page, and the content of scripts and handlers."""

    def __init__(self, page: str):
        super().__init__()
        self.seen: list = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_comment(self, data):
        self.seen.append(("comment", data))


def skeleton(page: str) -> list:
    return _Skeleton(page).seen


def start(folder: Path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 90)).save(picture, "PNG")
    panel = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    root = folder / "pictures"

    def case(value: tuple) -> str:
        names, files = value
        shutil.rmtree(root, ignore_errors=True)
        for each in names:
            (root / each).mkdir(parents=True)
            for number in range(2):
                for stem in files:
                    name = f"{stem}.png" if number == 0 else f"{number}.png"
                    (root / each / name).write_bytes(picture.getvalue())
        try:
            listing = list_images(root)
        except UserError as error:
            expect("\n" not in str(error), "not one line")
            return REFUSED
        expect(
            set(listing.class_names) == set(map(normalise_name, names)),
            "a class is spelt otherwise",
        )
        _split_and_back(listing, folder / "split.csv")
        _table_and_back(listing.class_names, folder / "predictions.csv")
        _page(listing, names, panel)
        _probes(listing, folder)
        if len(names) == 2:
            _drawn(listing.class_names)
        return ACCEPTED

    return case


def _split_and_back(listing, file: Path) -> None:
    divided = resolve_splits(listing, validation=0, test=0, seed=0)
    write_split(file, divided)
    again = read_split(file, listing)
    expect(np.array_equal(again.splits, divided.splits), "another split was read than written")


def _table_and_back(names: tuple[str, ...], file: Path) -> None:
    shares = np.full(len(names), 1 / len(names), np.float32)
    write_table(file, names, [(name, shares, "") for name in names])
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as text:
        rows = list(csv.reader(text))
    shown = [f"probability/{name}" for name in names]
    expect(rows[0][3:-1] == shown, "predictions.csv has other class names")
    expect([row[0] for row in rows[1:]] == list(names), "predictions.csv has other files")


def _page(listing, names: list[str], panel: bytes) -> None:
    def page(labels: list[str], files: list[str]) -> str:
        top = [(label, 0.5) for label in labels]
        shown = PageParts()
        for label, file in zip(labels, files, strict=True):
            panels = {f"layers/activations/{label}": panel}
            shown.add(label, file, panels=panels, top=top, notes=[label])
        return render_page(shown, heading=labels[0], network=labels[-1], version="1",
                              refused=files)  # fmt: skip

    files = [str(path) for path in listing.files[: len(names)]]
    plain = [f"class{number}" for number in range(len(names))]
    hostile = page(names, files)
    hostile.encode("utf-8")  # as it is written
    expect(skeleton(hostile) == skeleton(page(plain, plain)), "a name changed the page's elements")


def _probes(listing, folder: Path) -> None:
    count = len(listing.class_names)
    pictures = Images(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count), ["x"] * count)
    probes = choose_probes(pictures, listing.class_names, count=count, seed=0)
    for name in probes.names:
        expect("/" not in name and len(os.fsencode(f"{name}.png.1234567.tmp")) <= 255, name)
        (folder / "probe.txt").write_text(name, encoding="utf-8")
    forms = {unicodedata.normalize("NFC", name).casefold() for name in probes.names}
    expect(len(forms) == count, "two probes share a file on some systems")


def _drawn(names: tuple[str, ...]) -> None:
    counts = np.eye(len(names), dtype=int)
    drawn = confusion_matrix(counts, names, title=names[0])
    expect(drawn.dtype == np.uint8 and drawn.ndim == 3, f"{drawn.dtype} {drawn.shape}")


SURFACE = Surface("names of classes and files", st.tuples(classes, stems), start, 60)
