"""``make lesson about=TOPIC [key=value …]``: draw how networks learn, without any images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from convlens.cli.words import Word, Words, parse_words, read_count, read_number
from convlens.config.schema.model import ACTIVATIONS
from convlens.core.errors import UserError, check_name
from convlens.rundir.paths import check_free, write_into

# topic -> its own words, with their defaults
TOPICS: Mapping[str, Mapping[str, str]] = {
    "one_weight": {"lr": "0.1,0.8,2.1,2.4", "steps": "12", "start": "0"},
    "network": {
        "lr": "0.5", "activation": "relu", "loss": "cross_entropy", "hidden": "8,8",
        "steps": "1000", "seed": "0",
    },
    "activations": {},
    "losses": {},
    "softmax": {"logits": "2,1,-1"},
}  # fmt: skip
MOST_STEPS, MOST_UNITS, MOST_LAYERS = 10_000, 256, 6
WORDS: Words = {
    "about": Word(
        "the topic: gradient descent on one weight or on a small network, activation functions, "
        "losses, or softmax",
        form="TOPIC", required=True, values=tuple(TOPICS),
    ),
    "lr": Word(
        "one_weight, network: learning rates, separated by commas; default: "
        "0.1,0.8,2.1,2.4 and 0.5",
        form="RATE,…",
    ),
    "steps": Word("one_weight, network: steps; default: 12 and 1000", form="N"),
    "start": Word("one_weight: the weight before the first step; default: 0", form="NUMBER"),
    "activation": Word(
        "network: activation functions, separated by commas; default: relu",
        form="NAME,…", values=("none", *ACTIVATIONS),
    ),
    "loss": Word(
        "network: losses, separated by commas; default: cross_entropy",
        form="NAME,…", values=("cross_entropy", "squared_error"),
    ),
    "hidden": Word("network: units of each hidden layer; default: 8,8", form="N,…"),
    "seed": Word("network: seed of the points and the first weights; default: 0", form="N"),
    "logits": Word("softmax: two to five numbers; default: 2,1,-1", form="NUMBER,…"),
    "run_dir": Word("the folder to write; default: a new one in outputs/lesson/", form="DIR"),
}  # fmt: skip


def run(words: list[str]) -> int:
    values = read_values(words)
    from convlens.draw.jpeg import encode_jpeg
    from convlens.lessons.learning import lesson as lessons

    check_free(values["run_dir"], lessons.FILE)
    match values["about"]:
        case "one_weight":
            rates = _read_numbers(values, "lr", 0, 1000)
            (start,) = _read_numbers(values, "start", -100, 100, most=1)
            lesson = lessons.teach_one_weight(rates, _read_steps(values), start)
        case "network":
            lesson = lessons.teach_network(_read_settings(values))
        case "activations":
            lesson = lessons.teach_activations()
        case "losses":
            lesson = lessons.teach_losses()
        case _:
            lesson = lessons.teach_softmax(_read_numbers(values, "logits", -30, 30, least=2))
    file = write_into(values["run_dir"], "lesson", lessons.FILE, encode_jpeg(lesson.panel))
    print(*lesson.lines, f"picture  {file}", sep="\n")
    return 0


def read_values(words: list[str]) -> dict[str, str]:
    """Return the value of each word of the topic, typed or its default, and ``run_dir``.

    Raises:
        UserError: a word is unknown, or the topic does not use it.
    """
    values = parse_words(words, "lesson", WORDS)
    topic = values["about"]
    check_name("about", topic, TOPICS)
    known = {"about": topic, "run_dir": "", **TOPICS[topic]}
    for name in (word.partition("=")[0] for word in words):
        if name not in known:
            own = ", ".join(TOPICS[topic]) or "no other words"
            raise UserError(f"{name}=: the lesson about={topic} does not use it; it takes {own}")
        if not values[name] and name != "run_dir":
            raise UserError(f"{name}=: expected a value, such as {name}={known[name]}")
        known[name] = values[name]
    return known


def _read_settings(values: Mapping[str, str]) -> list:
    from convlens.lessons.learning.charts import MOST
    from convlens.lessons.learning.network import Settings

    hidden = _read_hidden(values)
    steps, seed = _read_steps(values), read_number(values, "seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: expected a whole number from 0 to 4294967295")
    every = [
        Settings(rate, activation, loss, hidden, steps, seed)
        for rate, activation, loss in itertools.product(
            _read_numbers(values, "lr", 0, 1e6),
            values["activation"].split(","),
            values["loss"].split(","),
        )
    ]
    if len(every) > MOST:
        raise UserError(
            f"lr, activation and loss make {len(every)} networks; the picture has room for {MOST}"
        )
    return every


def _read_hidden(values: Mapping[str, str]) -> tuple[int, ...]:
    text = values["hidden"]
    units = [read_count({"hidden": each}, "hidden") for each in text.split(",")]
    if len(units) > MOST_LAYERS or max(units) > MOST_UNITS:
        raise UserError(
            f"hidden={text}: at most {MOST_LAYERS} layers of at most {MOST_UNITS} units"
        )
    return tuple(units)


def _read_steps(values: Mapping[str, str]) -> int:
    steps = read_count(values, "steps")
    if steps > MOST_STEPS:
        raise UserError(f"steps={steps}: at most {MOST_STEPS}")
    return steps


def _read_numbers(
    values: Mapping[str, str], key: str, low: float, high: float, *, least: int = 1, most: int = 5
) -> list[float]:
    """Return the numbers of a value with commas; a ``low`` of 0 is excluded, as rates are positive.

    Raises:
        UserError: there are too few or too many, one is not a number, or one is out of range.
    """
    text = values[key]
    numbers = [float(read_number({key: each}, key)) for each in text.split(",")]
    if not least <= len(numbers) <= most:
        expected = "one number" if most == 1 else f"{least} to {most} numbers, separated by commas"
        raise UserError(f"{key}={text}: expected {expected}")
    for number in numbers:
        if not (low < number <= high or number == low < 0):
            above = "above 0 and at most" if low == 0 else f"from {low:g} to"
            use = f"use numbers {above} {high:g}"
            raise UserError(f"{key}={text}: {number:g} is out of range; {use}")
    return numbers
