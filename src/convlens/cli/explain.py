"""``make explain image=PATH [ckpt=FILE] [layers=…]``: everything about one picture, or a folder."""

from __future__ import annotations

from convlens.cli.words import extract


def run(words: list[str]) -> int:
    asked, words = extract(words, "image", "only", "target", "run_dir", "ckpt", "layers")
    from convlens.experiment.explain import explain_pictures
    from convlens.experiment.inputs import EXAMPLE
    from convlens.experiment.methods import choose_methods
    from convlens.experiment.networks import network_of

    choose_methods(asked["only"])  # a wrong name is told before a network is built
    ckpt, layers = asked.pop("ckpt"), asked.pop("layers") or "auto"
    explainer, network = network_of(ckpt, words)
    if asked["image"] is None and not (ckpt or words):
        asked["image"] = str(EXAMPLE / "pictures")
    explain_pictures(explainer, network, **asked, layers=layers, say=print)
    return 0
