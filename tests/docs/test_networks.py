"""``docs/networks.md`` states what is computed: each row is computed again, here and in CI."""

from __future__ import annotations

import importlib.util
import json
from functools import cache

import pytest

from convlens.models.catalogue import find_family, read_checked
from convlens.models.timm_networks import list_names
from support.families import LEFT_OUT, MEMBERS
from support.family_checks import Checks
from support.places import ROOT

QUICK = (
    "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224",
    "beit_base_patch16_224", "eva02_tiny_patch14_224", "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224", "starnet_s050",
)  # fmt: skip


@cache
def load_script():
    spec = importlib.util.spec_from_file_location("networks", ROOT / "docs" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def stated() -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(load_script().DATA.read_text("utf-8"))}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MEMBERS]
)
def test_a_row_is_what_is_computed(name):
    found, row = Checks(name).run().summarise(), stated()[name]
    assert {**found, "error": ""} == {**row, "error": ""}
    # rounding differs between processors: the page states a limit
    assert not found["error"] or float(found["error"]) <= 10 * float(row["error"])


def test_the_page_is_what_the_script_writes():
    script, rows = load_script(), list(stated().values())
    assert script.PAGE.read_text("utf-8") == script.write_page(rows)
    assert stated().keys() == MEMBERS.keys() and len(MEMBERS) >= 40
    assert all(cell and len(cell) <= 200 for row in rows for cell in row["cells"].values())
    assert all(float(row["error"]) <= 1e-9 for row in rows if row["error"])


def test_every_family_of_timm_has_a_row():
    families = {find_family(name) for name in list_names()} - {None}  # None: our own VGG16
    assert families == {row.family for row in read_checked()} - {"convlens"} | {*LEFT_OUT}
