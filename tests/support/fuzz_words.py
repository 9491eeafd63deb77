"""Arguments of a command: overrides that are wrong in every way."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hypothesis import strategies as st

from convlens.config.checks import get_value
from convlens.config.compose import _flat_keys, apply_overrides, compose
from convlens.config.folder import list_groups
from convlens.config.schema import Config
from convlens.core.errors import UserError
from convlens.rundir import log as logs
from support.fuzz_surface import ACCEPTED, REFUSED, Surface, expect, judged

BASE = ["data.pictures=60", "data.size=16", "model.filters=[4,6]", "model.padding=same",
        "model.head.hidden=[8]", "training.batch_size=8", "precision=32", "trainer=cpu",
        "probes.count=3"]  # fmt: skip
CONFIG = compose(BASE)
# no value of these is wrong; large ones only take minutes to build
COSTLY = ("data.pictures", "data.size", "model.filters", "model.head.hidden")
PLAIN = CONFIG.plain()
KEYS = _flat_keys(PLAIN)
ODD = (
    "", "null", "true", "false", "0", "-1", "1", "2", "3", "0.5", "-0.5", "1.5", "1e-3", "1e308",
    "1e400", "-1e400", "nan", "inf", "-inf", ".nan", ".inf", "99999999999999999999", "-2147483649",
    str(2**63), str(2**70), "0x10", "1_000", "007", "[]", "{}", "[0]", "[-1]", "[1,2]", "[0.5,0.9]",
    "[null]", "[[1]]", "[nan,nan]", "[a,b]", "{a:1}", "{_target_:os.system}", "[1,2", "1]", "{a",
    "}",
    "'", '"', "'a", '"a', "a b", "a,b", "1,2", "range(0,3)", "choice(1,2)", "glob(*)", "sort(3,1)",
    "interval(0,1)", "extend_list(1)", "int(3)", "float(nan)", "str(1)", "json_str('{}')",
    "${seed}", "${oc.env:HOME}", "${oc.env:NO_SUCH_NAME_HERE}", "${data.size}", "${nothing}",
    "${training}", "${", "$", "${a:b}", "${oc.decode:1}", "${oc.select:seed}", "${oc.create:{a:1}}",
    "auto", "none", "all", "same", "valid", "max", "adam", "sgd", "cosine", "balanced", "binary",
    "os.system", "builtins.exec", "convlens.callbacks.GradCam", "convlens.callbacks.Ledger",
    "../..", "/dev/null", "~", "~/x", "~nobody/x", "\n", "a\nb", "\0", "\u202e", "\udcff", "é", "=",
    "a=b", "+", "x" * 5000, "[" * 400, "{a:" * 200, "9" * 5000, "*", "?", "backbone.*",
    "[backbone.*]",
    "\\", "\\\\", "#", "a: b", "@", "!", "!!python/object:os.system", "2001-01-01", "1:30", "off",
)  # fmt: skip
PREFIXES = ("", "", "", "", "", "", "+", "++", "~", "-", "--", "@", " ", ".", "hydra.", "hydra/")

key = st.one_of(
    st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(KEYS),
    st.sampled_from([*list_groups(), "exp", "hydra", "hydra.run.dir", "defaults", "_target_", ""]),
    st.builds("{}.{}".format, st.sampled_from(KEYS), st.sampled_from(("0", "a", "_target_", ""))),
    st.text(max_size=12),
)  # fmt: skip
plain = st.one_of(
    st.integers().map(str), st.floats().map(str), st.text(max_size=30),
    st.lists(st.integers(-3, 300), max_size=4).map(str),
    st.lists(st.floats(), max_size=3).map(str),
)  # fmt: skip
value = st.one_of(st.sampled_from(ODD), st.sampled_from(ODD), plain)


@st.composite
def fitting(draw) -> str:
    """Draw a key with a value of its default's type, which only a range can refuse."""
    name = draw(st.sampled_from(KEYS))
    default = get_value(PLAIN, name)
    if isinstance(default, bool):
        text = draw(st.sampled_from(("true", "false")))
    elif isinstance(default, int):
        text = str(draw(st.one_of(st.integers(-2, 12), st.integers(-(2**33), 2**70))))
    elif isinstance(default, float):
        text = str(draw(st.one_of(st.floats(0, 1), st.floats(-2, 2), st.floats())))
    elif isinstance(default, list):
        number = st.one_of(st.integers(-1, 5), st.floats(0, 1), st.floats())
        text = str(draw(st.lists(number, max_size=4)))
    else:
        text = draw(st.sampled_from(ODD))
    return f"{name}={text}"


word = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(PREFIXES), key, value),
    st.builds("{}={}".format, st.sampled_from(KEYS), value),
    fitting(), fitting(), fitting(), st.text(max_size=20), st.sampled_from(ODD),
)  # fmt: skip
words = st.one_of(
    st.lists(word, min_size=1, max_size=1),
    st.lists(fitting(), min_size=1, max_size=2),
    st.lists(word, min_size=1, max_size=3),
)
ways = st.sampled_from(("changed",) * 39 + ("composed",))


def start(folder: Path):
    from convlens.experiment.assemble import assemble
    from convlens.experiment.trainer import build_trainer

    os.chdir(folder)
    logs.silence_libraries()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    def built(config: Config) -> str:
        """Build what a run would train with, if that is fast."""
        small = all(
            get_value(config.plain(), k) == get_value(PLAIN, k) for k in COSTLY if k in KEYS
        )
        if not small or config.model.name != "scratch" or config.data.name != "shapes":
            return ACCEPTED
        if config.trainer != CONFIG.trainer and config.trainer.accelerator != "cpu":
            return ACCEPTED

        def work() -> None:
            run = assemble(config)
            next(iter(run.data.train_dataloader()))
            run.module.configure_optimizers()
            run.module.schedule.rates(0.5, {})
            if config.trainer.strategy == "auto":
                build_trainer(run, folder / "run", False)

        return judged(work, 20)

    def case(drawn: tuple) -> str:
        way, typed = drawn
        held: list[Config] = []

        def work() -> None:
            if way == "composed":
                held.append(compose([*BASE, *typed]))
            else:
                held.append(apply_overrides(CONFIG, typed))

        if judged(work, 10) == REFUSED:
            return REFUSED
        expect(isinstance(held[0], Config), "no config")
        return built(held[0])

    return case


def refusal(typed: list[str]) -> str:
    """Return the error of these overrides when ``make train`` composes them."""
    try:
        compose([*BASE, *typed])
    except UserError as error:
        return str(error)
    raise AssertionError(f"{typed} was accepted")


SURFACE = Surface("config overrides", st.tuples(ways, words), start, 40)
