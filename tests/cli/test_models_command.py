"""``make models``: names, parameters, sizes, weights, and what was checked."""

from __future__ import annotations

import time

import pytest
import timm

from convlens.cli.models import run as command
from convlens.core.errors import UserError
from convlens.models.catalogue import describe, find_family, search_names


def printed(capsys, *words: str) -> tuple[dict[str, list[str]], str]:
    """The table, network -> its other cells, and what else is printed."""
    assert command(list(words)) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in lines if line[0] == "│"]
    return {row[0]: row[1:] for row in cells}, "\n".join(
        line for line in lines if line[0] not in "│┃┏┡└"
    )


def test_a_search_lists_what_is_known_of_each_network(at, monkeypatch, capsys):
    (at / "weights").mkdir()
    (at / "weights" / "vit_tiny_patch16_224.pth").write_bytes(b"")
    table, _ = printed(capsys, "search=vit_tiny*")
    assert list(table) == [n for n in timm.list_models() if n.startswith("vit_tiny")]
    parameters, size, weights, explained, checked = table["vit_tiny_patch16_224"]
    network = timm.create_model("vit_tiny_patch16_224")
    assert parameters == f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
    assert (size, weights) == ("224 px", "at hand")
    assert "Grad-CAM" in explained and "AttnLRP" not in explained
    assert "vit_tiny_patch16_224 (1e-" in checked
    assert table["vit_tiny_patch16_384"][2] == "download"


def test_own_networks_and_those_that_are_refused(capsys):
    table, _ = printed(capsys, "search=scratch")
    assert table["scratch"][:3] == ["", "any", "none"]
    (vgg16,) = describe(["vgg16"])
    assert vgg16.parameters == 138_357_544 and vgg16.checked[0].family == "convlens"
    (refused,) = describe(["crossvit_9_240"])
    assert refused.explained == () and refused.checked[0].error == ""
    assert search_names("*vgg16") == ["vgg16"]  # ours, not timm's


def test_a_family_is_timms_module_not_the_beginning_of_a_name():
    assert find_family("deit_tiny_patch16_224") == "deit"
    assert find_family("vit_small_patch16_dinov3.lvd1689m") == "eva"
    assert find_family("levit_128s") == "levit"
    assert find_family("scratch") is None


def test_a_long_list_is_cut_off_and_says_so(capsys):
    began = time.monotonic()
    table, rest = printed(capsys, "limit=2")
    assert list(table) == ["scratch", "vgg16"]
    count = len(timm.list_models())
    assert rest.strip() == f"{count - 1} more; search=TEXT finds some, limit={count + 1} lists all"
    assert time.monotonic() - began < 10  # nothing is built of those that are not listed


@pytest.mark.parametrize(
    ("word", "said"),
    [("search=vit_tinny", "vit_tiny"), ("limit=0", "at least 1"), ("serch=vit", "search")],
)
def test_mistakes_are_answered_in_one_line(word, said):
    with pytest.raises(UserError, match=said) as error:
        command([word])
    assert len(str(error.value)) <= 160 and "\n" not in str(error.value)
