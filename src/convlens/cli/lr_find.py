"""``make lr-find exp=NAME [key=value …] [low=1e-7 high=1 steps=100 plot=FILE]``.

The plot goes into a new folder below outputs/lr-find/ where ``plot`` is not given.
"""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import extract, number
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

DEFAULTS = {"low": "1e-7", "high": "1", "steps": "100", "plot": ""}


def run(words: list[str]) -> int:
    given, words = extract(words, *DEFAULTS)
    asked = DEFAULTS | {key: value for key, value in given.items() if value is not None}
    low, high, steps = (number(asked, key) for key in ("low", "high", "steps"))
    if not (0 < low < high and isinstance(steps, int) and steps >= 10):
        raise UserError(
            f"low={low} high={high} steps={steps}: 0 < low < high and at least 10 steps"
        )
    config = compose(words)
    file = Path(asked["plot"]).expanduser() if asked["plot"] else None
    if file and file.exists() and not config.overwrite:  # before the minutes of the test
        raise UserError(f"plot={file} is there already: choose another, or say overwrite=true")
    from convlens.draw.charts import rate_curve
    from convlens.draw.jpeg import encode_png
    from convlens.experiment.assemble import assemble
    from convlens.experiment.devices import device_of
    from convlens.training.rate_finder import find_rate

    made = assemble(config)
    found = find_rate(
        made.module, made.data, made.phases, device_of(config), low=low, high=high, steps=steps
    )
    file = file or make_fresh_folder(OUTPUTS / "lr-find") / "lr_find.png"
    trained = ", ".join(found.trained)
    title = f"{config.experiment} · learning-rate range test · {trained}"
    curve = rate_curve(found.rates, found.smooth, found.losses, found.best, title=title)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(curve))
    except OSError as error:
        raise UserError(f"plot={file} cannot be written: {error.strerror}") from None
    if found.best is None:
        print(f"the loss of {trained} falls nowhere from {low:g} to {high:g}: widen low= and high=")
    else:
        print(f"{found.key}={found.best:.2g}   where the loss of {trained} falls fastest")
    print(f"plot  {file}")
    return 0
