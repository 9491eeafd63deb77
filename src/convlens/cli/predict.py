"""``make predict ckpt=FILE images=DIR``: a table of each class's probability."""

from __future__ import annotations

import os
from pathlib import Path

from convlens.cli.words import (
    RECIPE,
    TEMPERATURE,
    Word,
    Words,
    extract_words,
    missing_word,
    read_count,
    read_number,
    read_switch,
)
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries
from convlens.core.processes import SHARE, Share, find_share, take_own_device
from convlens.core.progress import progress_bar

WORDS: Words = {
    "ckpt": Word(
        "the checkpoint or an exported .onnx file; last: the newest run's best checkpoint, "
        "example: the network included in convlens",
        form="FILE",
    ),
    "images": Word(
        "a folder of images, or one image", form="DIR", required=True, synonyms=("image",)
    ),
    "abstain": Word(
        "predict only where the confidence reaches this precision on validation, such as 0.99",
        form="PRECISION",
    ),
    "batch": Word("images per pass through the network", form="COUNT", default="64"),
    "processes": Word(
        "processes on this machine that share the images, each on a GPU or cores of its own",
        form="COUNT",
        default="1",
    ),
    "run_dir": Word("the folder to write; default: a new one in outputs/predict/", form="DIR"),
    "temperature": TEMPERATURE,
    "config_dir": RECIPE["config_dir"],
}
NOTES = (
    "Without ckpt=, `model=NAME model.head=imagenet` uses a network of timm or torchvision",
    "with its ImageNet weights; other keys of model and data may follow:",
    "`convlens train --help` lists them.",
)


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    batch, temperature = read_count(values, "batch"), read_switch(values, "temperature")
    precision = None if values["abstain"] is None else read_number(values, "abstain")
    images, ckpt = values["images"], values["ckpt"]
    share, processes = find_share(), read_count(values, "processes")
    if share.total > 1 and values["run_dir"] is None:
        raise UserError("set run_dir=…: the processes of this command cannot agree on a new folder")
    if share.total > 1:  # it is one of several
        if processes > 1 and SHARE not in os.environ:
            raise UserError("processes=… starts them itself: leave it out with torchrun or srun")
        processes = 1
    if images is None:
        raise missing_word("predict", "images", WORDS)
    if ckpt is None and not overrides:
        raise UserError(
            "predict needs ckpt=FILE, such as ckpt=last (the newest run's best one) or "
            "ckpt=example; or model=NAME model.head=imagenet"
        )
    with loading_libraries():
        from convlens.experiment.data import describe_used_images
        from convlens.experiment.inputs import find_checkpoint, find_image_files, start_walk
        from convlens.experiment.networks import load_network
        from convlens.experiment.parts import start_helpers
        from convlens.experiment.predict import (
            TABLE,
            choose_folder,
            choose_threshold,
            predict_files,
        )
        from convlens.models.state import compute_fingerprint

    take_own_device()
    with progress_bar("reading the network"):
        explainer, network = load_network(ckpt, overrides, temperature=temperature)
    least = None if precision is None else choose_threshold(explainer, precision)
    walk = start_walk(images)
    files = list(find_image_files(walk))
    if share.number and (Path(values["run_dir"] or "").expanduser() / TABLE).exists():
        return 0  # the first process has found all parts, of an earlier command
    home = choose_folder(values["run_dir"])
    if share.number == 0:
        print(f"{len(files)} images, {network}")
        for line in walk.notes(f"in {images}"):
            print(f"! {line}")
    with start_helpers("predict", [*words, f"run_dir={home}"], processes) as helpers:
        result = predict_files(
            explainer, files, home / TABLE, batch=batch, least=least, helpers=helpers,
            share=share if processes == 1 else Share(0, processes),
            network=compute_fingerprint(explainer.network),
        )  # fmt: skip
    if result is None:
        return 0
    for name, count in sorted(result.counts.items(), key=lambda pair: -pair[1])[:10]:
        print(f"  {count:>8} {name}")
    if least is not None:
        read = len(files) - len(result.refused)
        print(f"abstained in {result.abstained} of {read} images: confidence below {least:.4g}")
    for line in result.refused[:5]:
        print(f"! {line}")
    if result.refused:
        refused = f"{len(result.refused)} of {len(files)} files refused"
        print(f"{refused}; the column error of the table gives the reasons")
    if ckpt and (line := describe_used_images(files, find_checkpoint(ckpt))):
        print(f"! {line}")
    print(f"{result.seconds:.1f} s, {len(files) / max(result.seconds, 1e-9):.0f} images/s")
    print(f"predictions  {home / TABLE}")
    if len(result.refused) == len(files):
        raise UserError(f"images={images}: none of the files is an image")
    return 0
