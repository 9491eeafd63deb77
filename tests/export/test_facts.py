"""The metadata of an exported file: what is written is read, what is damaged is refused."""

from __future__ import annotations

import json

import pytest
import torch

from convlens.core.errors import UserError
from convlens.data.pixels.decode import Recipe
from convlens.export.facts import Facts, make_facts, read_facts

NAMES = ("chat", 'l\'"été"', "日本")


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read(resize, interpolation, channels):
    facts = Facts(NAMES, Recipe(40, 60, channels, resize, interpolation), 1.5, "layer4", "# card")
    metadata = facts.to_metadata()
    assert all(isinstance(text, str) for text in metadata.values())
    assert read_facts(metadata, "x.onnx") == facts
    rule = json.loads(metadata["preprocessing"])["rule"]
    assert "60×40" in rule and ("grey" in rule) == (channels == 1)


def test_thresholds_are_written_and_read_to_the_bit():
    limits = tuple(torch.rand(3).tolist())
    metadata = make_facts(NAMES, Recipe(40, 60), thresholds=limits).to_metadata()
    assert metadata["convlens_format"] == "2"  # earlier versions would take a softmax
    assert metadata["activation"] == "sigmoid" and json.loads(metadata["thresholds"]) == [*limits]
    assert read_facts(metadata, "x.onnx").thresholds == limits
    plain = make_facts(NAMES, Recipe(40, 60)).to_metadata()
    assert plain["convlens_format"] == "1" and not {"activation", "thresholds"} & plain.keys()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("thresholds", None, "no 'thresholds'"),
        ("thresholds", "[0.5, 0.5]", "not a number for each class"),
        ("thresholds", "0.5", "not a number for each class"),
        ("thresholds", "[0.5, 0.5, 1.5]", "between 0 and 1"),
        ("thresholds", "[0.5, 0.5, NaN]", "between 0 and 1"),
        ("thresholds", '[0.5, 0.5, "x"]', "between 0 and 1"),
        ("thresholds", "[0.5, 0.5, true]", "between 0 and 1"),
        ("activation", None, "no 'activation'"),
        ("activation", "softmax", "the activation is softmax"),
    ],
)
def test_damaged_thresholds_are_refused_in_a_line(key, value, said):
    metadata = make_facts(NAMES, Recipe(40, 40), thresholds=[0.5] * 3).to_metadata()
    metadata = {k: v for k, v in (metadata | {key: value}).items() if v is not None}
    with pytest.raises(UserError, match=said) as caught:
        read_facts(metadata, "x.onnx")
    assert "\n" not in str(caught.value) and "x.onnx" in str(caught.value)


def test_a_file_is_described_with_the_decoding_of_pillow(monkeypatch):
    monkeypatch.setattr("convlens.data.pixels.fast.check_installed", lambda: None)
    facts = make_facts(NAMES, Recipe(40, 40, decode="fast"))
    assert facts.recipe == Recipe(40, 40) and facts.temperature == 1.0 and facts.layer is None
    assert "grad_cam_layer" not in facts.to_metadata()


def test_another_file_is_refused():
    with pytest.raises(UserError, match=r"^x.onnx was not exported by convlens"):
        read_facts({"classes": "[]"}, "x.onnx")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("convlens_format", "3", "format 3"),
        ("classes", "[", "damaged"),
        ("classes", '["cat"]', "fewer than two"),
        ("classes", '["cat", "cat"]', "the same"),
        ("classes", '["cat", 3]', "not a list of names"),
        ("classes", '{"cat": 1, "dog": 2}', "not a list of names"),
        ("preprocessing", "[]", "damaged"),
        ("preprocessing", '{"height": 3}', "no 'width'"),
        ("temperature", "0", "temperature is 0"),
        ("temperature", "nan", "temperature is nan"),
        ("temperature", "warm", "damaged"),
    ],
)
def test_damaged_metadata_is_refused_in_a_line(key, value, said):
    metadata = make_facts(NAMES, Recipe(40, 40)).to_metadata() | {key: value}
    with pytest.raises(UserError, match=said) as caught:
        read_facts(metadata, "x.onnx")
    assert "\n" not in str(caught.value) and "x.onnx" in str(caught.value)


@pytest.mark.parametrize("key", ["classes", "preprocessing", "temperature"])
def test_missing_metadata_is_refused(key):
    metadata = make_facts(NAMES, Recipe(40, 40)).to_metadata()
    del metadata[key]
    with pytest.raises(UserError, match=f"no '{key}'"):
        read_facts(metadata, "x.onnx")


@pytest.mark.parametrize(
    ("key", "value"), [("resize", "stretch"), ("channels", 2), ("height", 0), ("height", "40")]
)
def test_preprocessing_that_cannot_be_done_is_refused(key, value):
    metadata = make_facts(NAMES, Recipe(40, 40)).to_metadata()
    changed = json.loads(metadata["preprocessing"]) | {key: value}
    with pytest.raises(UserError, match="damaged metadata"):
        read_facts(metadata | {"preprocessing": json.dumps(changed)}, "x.onnx")
