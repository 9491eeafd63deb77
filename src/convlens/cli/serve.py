"""``make serve ckpt=FILE``: a local page on which to drop images."""

from __future__ import annotations

from convlens.cli.words import (
    RECIPE,
    TEMPERATURE,
    Word,
    Words,
    extract_words,
    read_number,
    read_switch,
)
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar

WORDS: Words = {
    "ckpt": Word(
        "the checkpoint or an exported .onnx file; last: the newest run's best checkpoint; default "
        "without model=: example, the network included in convlens",
        form="FILE",
    ),
    "port": Word("the port of the page; 0: any free one", form="NUMBER", default="7860"),
    "host": Word(
        "the address to listen on; 0.0.0.0 opens the page to the network",
        form="NAME", default="127.0.0.1",
    ),
    "temperature": TEMPERATURE,
    "config_dir": RECIPE["config_dir"],
}  # fmt: skip
NOTES = (
    "Without ckpt=, `model=NAME model.head=imagenet` serves a network of timm or torchvision.",
)


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    temperature = read_switch(values, "temperature")
    port = read_number(values, "port")
    if not isinstance(port, int) or not 0 <= port < 2**16:
        raise UserError(f"port={values['port']}: expected a whole number from 0 to 65535")
    with loading_libraries():
        from convlens.experiment.networks import load_network
        from convlens.serving.page import check_installed, serve

    check_installed()
    with progress_bar("reading the network"):
        explainer, network = load_network(values["ckpt"], overrides, temperature=temperature)
    return serve(explainer, network, host=values["host"] or "", port=port, say=print)
