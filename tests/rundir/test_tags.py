"""Files of pictures have names that every system allows, and give their tags back."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
from convlens.callbacks.logging.writing import write_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from convlens.experiment.explanation import write_panels
from convlens.rundir.read import StoredRun
from convlens.rundir.tags import find_picture, read_tag

LOOK = Path("looks")
REFUSED = set('<>:"\\|?*') | set(map(chr, range(32)))
# names of layers, as people choose them; a slash separates folders, and dots modules
LETTERS = 'abcnoulptxmCN019 .%:*?<>|"\\\x01\x1f-_ü¹$'
NAMES = st.text(LETTERS, min_size=1, max_size=12)


@pytest.mark.parametrize(
    "tag",
    [
        "grad_cam/00_cat",
        "layers/activations/backbone.block4.activation/01_ü",
        "a b/50%",
        "x/.hidden",
    ],
)
def test_usual_names_stay_as_they_are(tag):
    assert find_picture(LOOK, tag) == LOOK / f"{tag}.jpg"
    assert read_tag(LOOK, LOOK / f"{tag}.jpg") == tag


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("aux", "%61ux.jpg"),
        ("layers/CON/x", "layers/%43ON/x.jpg"),
        ("com1.branch/x", "%63om1.branch/x.jpg"),
        ("conv:1/a?", "conv%3A1/a%3F.jpg"),
        ("end./x", "end%2E/x.jpg"),
        ("50%41/x", "50%2541/x.jpg"),
        ("auxiliary/com10", "auxiliary/com10.jpg"),
    ],
)
def test_names_that_windows_refuses_are_escaped(tag, file):
    assert find_picture(LOOK, tag) == LOOK / file
    assert read_tag(LOOK, LOOK / file) == tag


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_every_tag_comes_back_from_a_file_that_windows_allows(parts):
    tag = "/".join(parts)
    file = find_picture(LOOK, tag)
    assert read_tag(LOOK, file) == tag
    for part in file.relative_to(LOOK).parts:
        assert not set(part) & REFUSED and part[-1] not in ". "
        assert not PureWindowsPath(part).is_reserved()


def test_pictures_of_a_layer_called_aux_are_written_and_read(tmp_path):
    tag, picture = "layers/activations/aux:1/00_cat", np.zeros((8, 8, 3), np.uint8)
    write_picture(SimpleNamespace(loggers=[]), tmp_path / "explanations", tag, picture, 3)
    run = StoredRun(tmp_path, None, [], None)
    assert list(run.pictures) == [tag] and run.pictures[tag][3].is_file()
    write_panels(tmp_path / "panels", {"occlusion/aux": picture})
    assert (tmp_path / "panels" / "occlusion" / "%61ux.jpg").is_file()
