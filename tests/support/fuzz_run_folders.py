"""Run folders with damaged files: config, numbers, summary, facts, probes, log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import yaml
from hypothesis import strategies as st

from convlens.core.errors import UserError
from convlens.pages.compare import compare
from convlens.pages.report import report
from convlens.rundir.maps import Maps, write_maps
from convlens.rundir.read import read_config, read_run
from convlens.rundir.runs import read_all_runs, sort_runs
from support.fuzz_surface import Surface, expect, judged, mutated, mutations, silent
from support.runs_made import write_run

FILES = ("config.yaml", "metrics.csv", "summary.json", "probes/probes.tsv", "train.log",
         "explanations/epoch_000/grad_cam/00_cat.jpg", "probes/00_cat.png",
         "explanations/epoch_001/maps.safetensors", "data.json")  # fmt: skip
FACTS = {
    "name": "pets", "classes": ["cat"], "images": {"train": [3], "validation": [1], "test": [1]},
    "notes": [], "skipped": {"count": 0, "reasons": [], "first": []}, "copies": None,
    "originals": None,
}  # fmt: skip
WHOLE = (
    b"", b"{}", b"[]", b"null", b"[" * 3000, b"{\"a\":" * 3000, b"\xff\xfe\x00", b"\0" * 100,
    b"- a\n",
    b"experiment: 3\nx: &a [*a]\n", b"experiment: x\na: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    b"experiment: !!python/object/apply:os.system ['touch canary']\n", b"experiment: 2001-99-99\n",
    b"epoch,val/loss\n0,1\n1,nan\n", b"epoch,val/loss\n1e300,1\n", b"epoch\n-5\n",
    b"epoch,epoch\n0,1\n",
    b"epoch,a\n0,1,2,3\n", b'epoch,"a\n0,1\n', b"probe\tsource\n../../x\ty\n", b"9" * 6000,
    b'{"epochs": 1e400}', b'{"epochs": -1, "alarms": 3, "test": [1], "seconds": "x"}',
    b'{"best_epoch": "<b>", "evaluations": {"a": 1}, "looking": {"by_epoch": [{}]}}',
    b'{"test": {"loss": "x", "f1/<b>": null}, "alarms": ["<script>"], "failures": [1]}',
)  # fmt: skip
LEAVES = (None, True, -1, 0, 10**400, 1.5, float("nan"), float("inf"), "", "<b>x</b>", [], {}, [1],
          [None], {"a": 1}, {"a": {"b": []}}, "x" * 5000)  # fmt: skip
file = st.sampled_from(FILES[:4] * 3 + FILES[4:])
garbled = st.tuples(st.just("garbled"), file, mutations)
replaced = st.tuples(st.just("replaced"), file, st.sampled_from(WHOLE))
edited = st.tuples(
    st.just("edited"), st.sampled_from(FILES[:1] + FILES[2:3] + FILES[-1:]), st.integers(0, 2**12),
    st.sampled_from(LEAVES),
)  # fmt: skip
gone = st.tuples(st.just("gone"), file, st.booleans())


def start(folder: Path):
    runs = folder / "runs"
    for name in ("one", "two"):
        home = write_run(folder / "whole" / name, [1.0, 0.5, 0.7], probes={"00_cat": "red"})
        (home / "probes" / "probes.tsv").write_text("probe\tsource\n00_cat\tcats/1.png\n")
        maps = Maps("grad_cam", ["00_cat"], ["predicted"], [["<b>"]], np.ones((1, 1), np.float32),
                    {"<b>": np.ones((1, 1, 3, 3), np.float32)})  # fmt: skip
        write_maps(home / "explanations" / "epoch_001", maps)
        (home / "data.json").write_text(json.dumps(FACTS))
        (home / "train.log").write_text("2026-01-01 10:00:00 INFO convlens: training\n")

    def case(value: tuple) -> str:
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(folder / "whole", runs)
        home = runs / "one"
        _spoil(value, home)
        with silent():
            outcome = judged(lambda: read_run(home))
            judged(lambda: read_config(home))
            judged(lambda: report(home))
            judged(lambda: compare([home, runs / "two"]))

            def table() -> None:
                found = read_all_runs(runs)
                expect(len(found) >= 1, "a run was passed over in silence")
                for key in ("date", "test/accuracy", "-epochs", "state", "experiment"):
                    try:
                        sort_runs(found, key)
                    except UserError as error:
                        expect("no run has such a column" in str(error), str(error))

            judged(table)
        expect(not Path("canary").exists() and not (home / "canary").exists(), "code was run")
        page = home / "report.html"
        if page.exists():
            expect("<b>" not in page.read_text(encoding="utf-8"), "not escaped")
        return outcome

    return case


def _spoil(value: tuple, home: Path) -> None:
    match value:
        case ("garbled", name, ops):
            place = home / name
            place.write_bytes(mutated(place.read_bytes(), ops, WHOLE[len(ops) * 3 % len(WHOLE)]))
        case ("replaced", name, content):
            (home / name).write_bytes(content)
        case ("edited", name, number, leaf):
            place = home / name
            yamls = name.endswith("yaml")
            content = yaml.safe_load(place.read_text()) if yamls else json.loads(place.read_text())
            holders = [content, *(v for v in content.values() if isinstance(v, dict))]
            holder = holders[number % len(holders)]
            holder[list(holder)[number // 7 % len(holder)]] = leaf
            place.write_text(yaml.safe_dump(content) if yamls else json.dumps(content))
        case ("gone", name, folder):
            (home / name).unlink()
            if folder:
                (home / name).mkdir()


SURFACE = Surface("run folders", st.one_of(garbled, replaced, edited, edited, gone), start, 40)
