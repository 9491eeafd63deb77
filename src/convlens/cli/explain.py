"""``make explain image=PATH [ckpt=FILE] [layers=…]``: every explanation of an image or a folder."""

from __future__ import annotations

from convlens.cli.words import RECIPE, TEMPERATURE, Word, Words, extract_words, read_switch
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar

WORDS: Words = {
    "ckpt": Word(
        "the checkpoint or an exported .onnx file; last: the newest run's best checkpoint; default "
        "without model=: example, the network included in convlens",
        form="FILE",
    ),
    "image": Word(
        "an image or a folder of images; default with the example network: its own images",
        form="PATH", synonyms=("images",),
    ),
    "only": Word(
        "grad_cam, occlusion, superpixels, activations, filters, one of those below for "
        "transformers, or methods of captum.attr, with commas; default: see below",
        form="NAME,…",
    ),
    "layers": Word(
        "names or patterns of layers, separated by commas", form="NAME,…", default="auto"
    ),
    "target": Word(
        "the class to explain: its name, or topN for the N most probable, such as top3; "
        "default: the most probable one",
        form="CLASS",
    ),
    "run_dir": Word("the folder to write; default: a new one in outputs/explain/", form="DIR"),
    "temperature": TEMPERATURE,
    "config_dir": RECIPE["config_dir"],
}  # fmt: skip
NOTES = (
    "Without only=: grad_cam, legrad, occlusion, superpixels, integrated_gradients "
    "and activations.",
    "For transformers: legrad, relevance, attention, rollout, token_occlusion, and attn_lrp for",
    "torchvision's ViT (package lxt). By default, legrad is left out where it does not fit.",
    "Without ckpt=, `model=NAME model.head=imagenet` explains a network of timm or torchvision",
    "with its ImageNet weights; other keys of model and data may follow:",
    "`convlens train --help` lists them.",
)


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    temperature = read_switch(values, "temperature")
    del values["temperature"]
    with loading_libraries():
        from convlens.experiment.explain import explain_images
        from convlens.experiment.inputs import EXAMPLE
        from convlens.experiment.methods import choose_methods
        from convlens.experiment.networks import load_network

    choose_methods(values["only"])  # report a wrong name before a network is built
    ckpt, layers = values.pop("ckpt"), values.pop("layers") or "auto"
    with progress_bar("reading the network"):
        explainer, network = load_network(ckpt, overrides, temperature=temperature)
    if values["image"] is None and not (ckpt or overrides):
        values["image"] = str(EXAMPLE / "pictures")
    explain_images(explainer, network, **values, layers=layers, say=print)
    return 0
