"""``make lr-find exp=NAME [key=value …]``: plot the loss over rising learning rates."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words, read_number
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

WORDS: Words = {
    **RECIPE,
    "low": Word("the first learning rate", form="RATE", default="1e-7"),
    "high": Word("the last learning rate", form="RATE", default="1"),
    "steps": Word("training steps between them, at least 10", form="COUNT", default="100"),
    "plot": Word(
        "the file for the plot; default: lr_find.png in a new folder in outputs/lr-find/",
        form="FILE",
    ),
}
KEYS = Keys()


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    low, high, steps = (read_number(values, key) for key in ("low", "high", "steps"))
    if not (0 < low < high and isinstance(steps, int) and steps >= 10):
        raise UserError(
            f"low={low} high={high} steps={steps}: expected 0 < low < high and at least 10 steps"
        )
    config = compose(overrides)
    file = Path(values["plot"]).expanduser() if values["plot"] else None
    if file and file.exists() and not config.overwrite:  # refuse before minutes of work
        raise UserError(f"plot={file} exists: choose another file, or set overwrite=true")
    with loading_libraries():
        from convlens.draw.charts import rate_curve
        from convlens.draw.jpeg import encode_png
        from convlens.experiment.assemble import assemble
        from convlens.experiment.devices import choose_device
        from convlens.training.rate_finder import find_rate

    with progress_bar("preparing data and network"):
        parts = assemble(config)
    with progress_bar("raising the learning rate"):
        result = find_rate(
            parts.module, parts.data, parts.phases, choose_device(config),
            low=low, high=high, steps=steps,
        )  # fmt: skip
    file = file or make_fresh_folder(OUTPUTS / "lr-find") / "lr_find.png"
    trained = ", ".join(result.trained)
    title = f"{config.experiment} · learning-rate range test · {trained}"
    curve = rate_curve(result.rates, result.smooth, result.losses, result.best, title=title)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(curve))
    except OSError as error:
        raise UserError(f"plot={file} cannot be written ({error.strerror})") from None
    if result.best is None:
        rates = f"between {low:g} and {high:g}"
        print(f"the loss of {trained} falls nowhere {rates}: widen low= and high=")
    else:
        print(f"{result.key}={result.best:.2g}   where the loss of {trained} falls fastest")
    print(f"plot  {file}")
    return 0
