"""Cache files that were changed on disk: arrays and their metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from convlens.data.pixels.cache import FORMAT, digest, load_or_build
from support.fuzz_surface import Surface, expect, judged, mutated, mutations, silent

LEAVES = (None, True, -1, 0, 2**70, 1.5, "x", "../x", [], {}, [1], {"bytes": 1}, "images")
array = st.tuples(st.just("array"), mutations, st.booleans())
swapped = st.tuples(st.just("swapped"), st.booleans(), st.booleans())
notes = st.tuples(st.just("notes"), mutations)
edited = st.tuples(
    st.just("edited"),
    st.sampled_from(("fingerprint", "arrays", "notes", "digest", "images", "bytes", "mtime_ns")),
    st.sampled_from(LEAVES), st.booleans(),
)  # fmt: skip
gone = st.tuples(st.just("gone"), st.sampled_from(("array", "notes", "folder for array")))


def start(folder: Path):
    rng = np.random.default_rng(0)
    rights = [rng.integers(0, 256, (5, 6, 6, 3)).astype(np.uint8),
              rng.normal(size=(4, 7)).astype(np.float32)]  # fmt: skip

    def build(right: np.ndarray):
        def fill(writer) -> dict:
            writer.create("images", right.shape, right.dtype).put(0, right)
            return {"errors": [], "dtype": "x"}

        return fill

    def read(number: int) -> np.ndarray:
        entry = load_or_build(folder, f"entry{number}", f"mark{number}", build(rights[number]))
        expect(entry.notes == {"errors": [], "dtype": "x"}, f"notes {entry.notes}")
        return entry.arrays["images"]

    def check() -> None:
        for number, right in enumerate(rights):
            found = read(number)
            expect(found.dtype == right.dtype and found.shape == right.shape, "another array")
            expect(np.array_equal(found, right), "changed numbers were handed on")

    def case(value: tuple) -> str:
        check()
        file, sidecar = folder / "entry0.images.npy", folder / "entry0.json"
        _spoil(value, file, sidecar, folder)
        with silent():
            outcome = judged(check)
        if file.is_dir():
            file.rmdir()
        return outcome

    return case


def _spoil(value: tuple, file: Path, sidecar: Path, folder: Path) -> None:
    match value:
        case ("array", ops, disguised):
            before, content = file.stat(), file.read_bytes()
            changed = mutated(content, ops, b"\x93NUMPY")
            if disguised:  # in place, of the same size, and with its time restored
                changed = (changed + content)[: len(content)]
            file.write_bytes(changed)
            if disguised:
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        case ("swapped", arrays, sidecars):
            for wanted, suffix in ((arrays, ".images.npy"), (sidecars, ".json")):
                if wanted:
                    one, other = (folder / f"entry{n}{suffix}" for n in (0, 1))
                    beside = folder / "beside"
                    one.rename(beside)
                    other.rename(one)
                    beside.rename(other)
        case ("notes", ops):
            sidecar.write_bytes(mutated(sidecar.read_bytes(), ops, b'{"arrays": [[[['))
        case ("edited", key, leaf, signed):
            content = json.loads(sidecar.read_text())
            content.pop("digest")
            place = content
            if key in ("bytes", "mtime_ns"):
                place = content["arrays"]["images"]
            elif key == "images":
                place = content["arrays"]
            place[key] = leaf
            content = {k: v for k, v in content.items() if k != "digest"}
            content["digest"] = digest(FORMAT, content) if signed else "0" * 32
            if key not in ("notes", "arrays", "images") or not signed:
                # other metadata with the right digest is a valid cache entry
                sidecar.write_text(json.dumps(content))
        case ("gone", "array"):
            file.unlink()
        case ("gone", "notes"):
            sidecar.unlink()
        case ("gone", _):
            file.unlink()
            file.mkdir()


SURFACE = Surface("cache files", st.one_of(array, array, swapped, notes, edited, gone), start, 100)
