"""The viewer's data: the numbers of ``maps.safetensors``, safe in a page, below its size."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from convlens.pages.report import LIMIT, report
from convlens.pages.viewer import (
    ViewerProbe,
    ViewerRun,
    build_viewer,
    read_viewer_run,
    spread_evenly,
)
from convlens.rundir.maps import IMAGE, Maps, split_scale
from convlens.rundir.read import read_run
from support.maps_made import CLASSES, CROP, MISSING, SPARSE, write_run_with_maps
from support.page_parsed import Page

EPOCHS = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_run_with_maps(tmp_path_factory.mktemp("runs") / "run", epochs=EPOCHS)


@pytest.fixture(scope="module")
def text(home):
    return report(home).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text):
    return read_data(text)


def read_data(text: str) -> dict:
    """The JSON of a page, as a browser finds it."""
    (script,) = Page(text).all("script", type="application/json")
    return json.loads(script.text)


def numbers(encoded: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(encoded), kind)


# --- the numbers


def test_data_are_the_bits_of_the_files(home, data):
    """Read with safetensors alone, not by our reader."""
    (run,) = data["runs"]
    compared = 0
    for epoch in range(EPOCHS + 1):
        file = home / "explanations" / f"epoch_{epoch:03d}" / "maps.safetensors"
        with safe_open(str(file), framework="numpy") as opened:
            facts = json.loads(opened.metadata()["methods"])
            for method, about in facts.items():
                looks = run["methods"][method]["looks"]
                (look,) = [each for each in looks if each["epoch"] == epoch]
                names = [run["probes"][place]["name"] for place in look["probes"]]
                assert names == about["probes"] and look["roles"] == about["roles"]
                found = [[data["classes"][number] for number in row] for row in look["classes"]]
                assert found == about["classes"]
                stored = opened.get_tensor(f"{method}/probabilities")
                assert numbers(look["probabilities"], "<f4").tobytes() == stored.tobytes()
                for number, layer in enumerate(about["layers"]):
                    each = look["layers"][layer]
                    maps = opened.get_tensor(f"{method}/{number}/maps")
                    scales = opened.get_tensor(f"{method}/{number}/scales")
                    assert (each["rows"], each["columns"]) == maps.shape[2:]
                    assert numbers(each["maps"], "<f2").tobytes() == maps.tobytes()
                    assert numbers(each["scales"], "<f4").tobytes() == scales.tobytes()
                    compared += maps.size
    assert compared > 10_000


def test_scaling_again_changes_no_bit():
    """Maps are scaled when they are written, and again for the page."""
    rng = np.random.default_rng(0)
    values = (
        rng.normal(size=(2000, 1, 3, 3)) * 10.0 ** rng.uniform(-20, 20, (2000, 1, 1, 1))
    ).astype(np.float32)
    halves, scales = split_scale(values)
    again = split_scale(halves.astype(np.float32) * scales[..., None, None])
    assert (again[0].tobytes(), again[1].tobytes()) == (halves.tobytes(), scales.tobytes())


def test_sparse_methods_and_left_out_probes_stay_as_they_are(data):
    (run,) = data["runs"]
    occlusion, grad_cam = (run["methods"][name] for name in ("occlusion", "grad_cam"))
    assert [look["epoch"] for look in occlusion["looks"]] == list(range(0, EPOCHS + 1, SPARSE))
    assert occlusion["layers"] == [IMAGE] and occlusion["signed"] and not grad_cam["signed"]
    assert occlusion["within"] == grad_cam["within"] == 1
    assert [len(look["probes"]) for look in grad_cam["looks"]] == [
        3 if epoch == MISSING else 4 for epoch in range(EPOCHS + 1)
    ]


def test_a_method_of_another_library_is_signed():
    layer = np.ones((1, 1, 2, 2), np.float32)
    share = np.ones((1, 1), np.float32)
    maps = Maps("deep_lift", ["p"], ["target"], [["a"]], share, {IMAGE: layer})
    viewer = build_viewer([ViewerRun("", [ViewerProbe("p")], {"deep_lift": {3: maps}})])
    method = json.loads(viewer.data)["runs"][0]["methods"]["deep_lift"]
    assert method["signed"] and method["title"] == "Deep lift" and "red" in method["reading"]
    assert method["within"] == 0.99  # of the magnitudes lie within the colours
    assert viewer.epochs == (3, 3)


# --- photographs


def test_photographs_are_small_jpegs_at_their_own_proportions(home, data):
    assert len(data["photographs"]) == 4
    for probe in data["runs"][0]["probes"]:
        photograph = data["photographs"][probe["photograph"]]
        head, _, encoded = photograph["uri"].partition(",")
        assert head == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        with Image.open(home / "probes" / f"{probe['name']}.jpg") as stored:
            assert picture.size == (photograph["width"], photograph["height"])
            assert max(picture.size) <= 480
            assert picture.width / picture.height == pytest.approx(
                stored.width / stored.height, 0.01
            )
            pixels = [np.asarray(p.convert("RGB").resize((40, 40))) for p in (picture, stored)]
        assert np.abs(np.diff(np.float32(pixels), axis=0)).mean() < 4
    frames = [probe["frame"] for probe in data["runs"][0]["probes"]]
    assert frames == [[0, 0, 1, 1], [0, 0, 1, 1], list(CROP), [0, 0, 1, 1]]


def test_a_broken_photograph_is_named_and_its_maps_are_shown(home):
    run = read_viewer_run(read_run(home))
    probes = [replace(run.probes[0], photograph=run.probes[0].photograph[:500]), *run.probes[1:]]
    viewer = build_viewer([replace(run, probes=probes)])
    assert viewer.broken == [f"not shown, because it is not a complete image: {probes[0].name}"]
    assert json.loads(viewer.data)["runs"][0]["probes"][0]["photograph"] is None


# --- several runs


def test_images_of_equal_content_share_a_card(home):
    run = read_viewer_run(read_run(home), "one")
    # the other run has them in another order, under other names, and one more
    other = [replace(probe, name=f"x{probe.name}") for probe in reversed(run.probes)]
    other.append(ViewerProbe("alone", run.probes[0].photograph + b"\0"))
    data = json.loads(build_viewer([run, ViewerRun("two", other, run.maps)]).data)
    assert data["cards"] == [[[0, n], [1, 3 - n]] for n in range(4)] + [[[1, 4]]]
    assert [r["name"] for r in data["runs"]] == ["one", "two"]
    assert len(data["photographs"]) == 5
    shared = [
        data["runs"][0]["probes"][0]["photograph"],
        data["runs"][1]["probes"][3]["photograph"],
    ]
    assert shared[0] == shared[1]


def test_equal_images_of_one_run_have_cards_of_their_own(home):
    run = read_viewer_run(read_run(home))
    twice = [*run.probes, replace(run.probes[0], name="again")]
    assert json.loads(build_viewer([replace(run, probes=twice)]).data)["cards"] == [
        [[0, n]] for n in range(5)
    ]


# --- the page


def test_names_cannot_leave_the_data(text, data):
    nasty = CLASSES[3]
    assert "</script>" in nasty and nasty in data["classes"]
    assert nasty not in text and "<b>&" not in text
    assert len(Page(text).all("script")) == 3
    labels = [probe["label"] for probe in data["runs"][0]["probes"]]
    assert labels == ["cat", "", "dog", nasty]


def test_hostile_names_survive_the_way_through_the_page():
    names = ["</script>", "<!--<script>", "]]>", "\u2028\u2029", "'\"`\\", "\udcff", "{{ x }}", ""]
    layer = np.ones((len(names), 1, 1, 1), np.float32)
    maps = Maps("grad_cam", names, ["predicted"], [[name] for name in names],
                np.ones((len(names), 1), np.float32), {"</script>": layer})  # fmt: skip
    probes = [ViewerProbe(name, source=name, label=name, seen=name) for name in names]
    viewer = build_viewer([ViewerRun("</script>", probes, {"grad_cam": {0: maps}})])
    assert not set(viewer.data) & set("<>&\u2028\udcff")
    read = json.loads(viewer.data)
    assert [probe["name"] for probe in read["runs"][0]["probes"]] == names
    assert read["classes"] == names


def test_phases_and_the_best_epoch_are_marked(data):
    (run,) = data["runs"]
    assert run["marks"] == [[2, "phase 2"]] and run["best"] == 4


def test_run_of_30_epochs_and_8_probes_stays_below_the_limit(tmp_path):
    home = write_run_with_maps(tmp_path / "run", epochs=30, probes=8, classes=5)
    text = report(home).read_text(encoding="utf-8")
    assert len(text.encode()) <= LIMIT == 3_000_000
    looks = read_data(text)["runs"][0]["methods"]["grad_cam"]["looks"]
    assert [look["epoch"] for look in looks] == list(range(31))  # nothing is left out
    assert looks[0]["layers"]["backbone.block3"]["rows"] == 14
    assert not Page(text).all("details", id="left-out")


def test_epochs_are_thinned_out_before_photographs_shrink(home):
    run = read_viewer_run(read_run(home))
    looks = run.maps["grad_cam"]
    many = {"grad_cam": {epoch: looks[epoch % len(looks)] for epoch in range(100)},
            "occlusion": dict.fromkeys((0, 50), run.maps["occlusion"][0])}  # fmt: skip
    grown = replace(run, maps=many)
    whole = build_viewer([grown])
    assert whole.left_out == [] and whole.epochs == (0, 99)
    room = len(whole.data) // 2
    smaller = build_viewer([grown], room=room)
    data = json.loads(smaller.data)
    epochs = [look["epoch"] for look in data["runs"][0]["methods"]["grad_cam"]["looks"]]
    assert len(smaller.data) <= room and len(epochs) >= 16 and smaller.epochs == (0, 99)
    assert (epochs[0], epochs[-1]) == (0, 99) and np.ptp(np.diff(epochs)) <= 1
    sparse = [look["epoch"] for look in data["runs"][0]["methods"]["occlusion"]["looks"]]
    assert sparse == [0, 50]
    assert smaller.left_out == [f"maps: those of {len(epochs)} of 100 epochs, evenly spaced, "
                                "including the first and the last"]  # fmt: skip
    assert data["photographs"] == json.loads(whole.data)["photographs"]
    tiny = build_viewer([grown], room=len(whole.data) // 12)
    assert "photographs: at most" in tiny.left_out[-1]
    assert build_viewer([grown], room=1000) is None


def test_no_maps_no_viewer(home):
    assert build_viewer([replace(read_viewer_run(read_run(home)), maps={})]) is None


def test_spread_by_brute_force():
    for total in range(1, 30):
        epochs = list(range(0, 3 * total, 3))
        for count in range(2, total + 3):
            found = spread_evenly(epochs, count)
            assert len(found) == min(count, total) and sorted(set(found)) == found
            assert found[0] == epochs[0] and found[-1] == epochs[-1]
