"""``make explain image=PATH [ckpt=FILE] [layers=…]``: everything about one picture, or a folder."""

from __future__ import annotations

from convlens.cli.words import extract
from convlens.rundir import log as logs


def run(words: list[str]) -> int:
    logs.speak()
    told = {}
    for key in ("ckpt", "image", "only", "layers", "target", "run_dir"):
        told[key], words = extract(words, key)
    from convlens.experiment.checkpoints import EXAMPLE
    from convlens.experiment.explain import Request, explain_pictures
    from convlens.experiment.methods import choose_methods
    from convlens.experiment.networks import network_of

    choose_methods(told["only"])  # a wrong name is told before a network is built
    ckpt = told.pop("ckpt")
    explainer, network = network_of(ckpt, words)
    if told["image"] is None and not (ckpt or words):
        told["image"] = str(EXAMPLE / "pictures")
    request = Request(**{**told, "layers": told["layers"] or "auto"})
    explain_pictures(explainer, network, request, print)
    return 0
