"""``make export ckpt=FILE [format=onnx] [cam=true]``: a network as one checked file."""

from __future__ import annotations

from convlens.cli.words import (
    RECIPE,
    TEMPERATURE,
    Word,
    Words,
    extract_words,
    read_count,
    read_switch,
)
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries

FORMATS = ("onnx", "torch_export", "safetensors", "timm")
WORDS: Words = {
    "ckpt": Word(
        "the checkpoint; last: the newest run's best one, example: the network included in "
        "convlens",
        form="FILE",
    ),
    "format": Word(
        "onnx for ONNX Runtime, torch_export for torch.export.load, safetensors: only the weights, "
        "timm: a folder for timm.create_model",
        form="NAME", default="onnx", values=FORMATS,
    ),
    "cam": Word(
        "whether the file also computes the Grad-CAM map of the last feature map (onnx and "
        "torch_export), for the predicted class or for each of several",
        form="SWITCH", default="false", values=("true", "false"),
    ),
    "images": Word(
        "images on which the file is compared with the network: a folder or one image; default: "
        "those of the run's data",
        form="DIR", synonyms=("image",),
    ),
    "count": Word("images for this check, evenly spread", form="COUNT", default="16"),
    "run_dir": Word("the folder to write; default: a new one in outputs/export/", form="DIR"),
    "temperature": TEMPERATURE,
    "config_dir": RECIPE["config_dir"],
}  # fmt: skip
NOTES = (
    "The file contains the normalisation, and says in its metadata how images are resized, the",
    "class names, the temperature and a model card. It is written only if it computes what the",
    "network does: up to 1e-4, at two batch sizes.",
    "Without ckpt=, `model=NAME model.head=imagenet` exports a network of timm or torchvision.",
)


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    cam, count = read_switch(values, "cam"), read_count(values, "count")
    ckpt = values["ckpt"]
    if ckpt is None and not overrides:
        raise UserError(
            "export needs ckpt=FILE, such as ckpt=last (the newest run's best one) or "
            "ckpt=example; or model=NAME model.head=imagenet"
        )
    with loading_libraries():
        from convlens.experiment.export import export_network

    export = export_network(
        ckpt, overrides, kind=values["format"] or "onnx", cam=cam, images=values["images"],
        count=count, run_dir=values["run_dir"], temperature=read_switch(values, "temperature"),
    )  # fmt: skip
    print(export.facts.card)
    print(f"checked   {export.check}")
    print(f"exported  {export.file}")
    return 0
