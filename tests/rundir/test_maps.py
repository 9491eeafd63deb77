"""The maps of a look as numbers: what is written is what is read, also beside what was there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from convlens import open_run
from convlens.core.errors import UserError
from convlens.rundir.maps import FILE, Maps, read_maps, split_scale, write_maps


def make(method="grad_cam", probes=("a", "b"), layers=None, seed=0, roles=("predicted", "true")):
    rng = np.random.default_rng(seed)
    count, sizes = (len(probes), len(roles)), {"last": (7, 7)} if layers is None else layers
    return Maps(
        method, list(probes), list(roles), [["cat", "dog"][: len(roles)] for _ in probes],
        rng.random(count, np.float32),
        {name: rng.normal(size=(*count, *size)).astype(np.float32) for name, size in sizes.items()},
    )  # fmt: skip


def equal(one: Maps, other: Maps) -> None:
    assert list(one.probes) == list(other.probes) and list(one.roles) == list(other.roles)
    assert [list(row) for row in one.classes] == [list(row) for row in other.classes]
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert list(one.layers) == list(other.layers)
    for name, values in one.layers.items():
        largest = np.nanmax(np.abs(values), axis=(-2, -1), keepdims=True, initial=0)
        np.testing.assert_allclose(other.layers[name] / largest, values / largest, atol=2.0**-11)


@pytest.mark.parametrize("layers", [{"l": (7, 7)}, {"a/b c": (14, 3), "é.0": (1, 1)}, {}])
def test_what_is_written_is_read(at, layers):
    found = make(layers=layers)
    write_maps(at / "look", found)
    equal(found, read_maps(at / "look" / FILE)["grad_cam"])


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e6, 1e30])
def test_any_magnitude_is_kept_to_eleven_bits(size):
    """float16 alone goes from 6e-8 to 65504."""
    values = (size * np.random.default_rng(1).normal(size=(3, 2, 7, 7))).astype(np.float32)
    halves, scales = split_scale(values)
    assert halves.dtype == np.float16 and scales.dtype == np.float32 and scales.shape == (3, 2)
    again = halves.astype(np.float32) * scales[..., None, None]
    assert np.abs(again - values).max() <= 2.0**-11 * np.abs(values).max()


def test_an_empty_map_stays_empty_and_what_is_not_finite_stays_so():
    values = np.zeros((4, 2, 2), np.float32)
    values[1, 0, 0], values[2, 1, 1], values[3] = np.nan, np.inf, -np.inf
    values[1, 1, 1] = 3
    halves, scales = split_scale(values)
    np.testing.assert_array_equal(halves.astype(np.float32) * scales[:, None, None], values)


def test_other_methods_and_other_probes_are_kept(at):
    first, second = make(probes=("a", "b")), make(probes=("b", "c"), seed=1)
    other = make("occlusion", probes=("b",), layers={"image": (14, 14)}, seed=2)
    for found in (first, other, second):
        write_maps(at, found)
    read = read_maps(at / FILE)
    equal(other, read["occlusion"])
    assert list(read["grad_cam"].probes) == ["a", "b", "c"]
    values = read["grad_cam"].layers["last"]
    np.testing.assert_allclose(values[0], first.layers["last"][0], atol=2e-3)
    np.testing.assert_allclose(values[1:], second.layers["last"], atol=2e-3)


@pytest.mark.parametrize("changed", [{"layers": {"other": (7, 7)}}, {"roles": ("target",)}])
def test_maps_that_do_not_fit_together_are_replaced(at, changed):
    write_maps(at, make(probes=("a", "b")))
    found = make(probes=("c",), seed=1, **changed)
    write_maps(at, found)
    equal(found, read_maps(at / FILE)["grad_cam"])


def test_the_file_is_plain_safetensors(at):
    """Another program reads it with safetensors alone, by what the docs say."""
    write_maps(at, found := make())
    with safe_open(str(at / FILE), framework="numpy") as opened:
        facts = json.loads(opened.metadata()["methods"])["grad_cam"]
        halves = opened.get_tensor("grad_cam/0/maps")
        scales = opened.get_tensor("grad_cam/0/scales")
    assert facts["layers"] == ["last"] and facts["probes"] == ["a", "b"]
    assert halves.dtype == np.float16 and halves.shape == (2, 2, 7, 7)
    np.testing.assert_allclose(halves * scales[..., None, None], found.layers["last"], atol=2e-3)


def test_equal_maps_make_equal_files(tmp_path):
    for number in range(20):
        write_maps(tmp_path / str(number), make())
    assert len({(tmp_path / str(number) / FILE).read_bytes() for number in range(20)}) == 1


def test_values_have_an_axis_of_layers(at):
    found = make(layers={"a": (7, 7), "b": (7, 7)})
    assert found.values.shape == (2, 2, 2, 7, 7)
    np.testing.assert_array_equal(found.values[:, :, 1], found.layers["b"])
    with pytest.raises(UserError, match=r"different sizes .*use \.layers"):
        _ = make(layers={"a": (7, 7), "b": (4, 4)}).values


@pytest.mark.parametrize("damage", ["cut", "other", "words", "huge"])
def test_a_damaged_file_is_named(at, damage):
    write_maps(at, make())
    file = at / FILE
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "other":
        save_file({"x": np.zeros(3, np.float32)}, str(file))
    elif damage == "words":
        methods = json.dumps({"grad_cam": {"format": "1", "probes": 3}})
        save_file({"x": np.zeros(1)}, str(file), {"methods": methods})
    else:
        with file.open("r+b") as opened:
            opened.truncate(60_000_000)
    with pytest.raises(UserError, match=r"maps\.safetensors does not hold the maps of a run"):
        read_maps(file)


def test_a_run_answers_with_its_maps_and_says_what_it_lacks(at):
    run = at / "run"
    for epoch in (0, 2):
        write_maps(run / "explanations" / f"epoch_{epoch:03d}", make(seed=epoch))
    (run / "config.yaml").write_text("experiment: scratch\n")
    opened = open_run(run)
    equal(make(seed=2), opened.maps())
    equal(make(seed=0), opened.maps("grad_cam", epoch=0))
    with pytest.raises(UserError, match=r"no maps of grad_cam after epoch 1: .* epochs 0, 2"):
        opened.maps(epoch=1)
    with pytest.raises(UserError, match=r"no maps of grad_can: did you mean grad_cam\?"):
        opened.maps("grad_can")


def test_a_run_of_before_has_no_maps(at):
    (at / "config.yaml").write_text("experiment: scratch\n")
    with pytest.raises(UserError, match="has no maps of grad_cam: it has no maps at all"):
        open_run(at).maps()
