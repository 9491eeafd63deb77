"""What a sweep is: the words of every trial, the space, and how values are chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from convlens.config.compose import compose
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.experiment.sweep.space import Domain, list_corners, parse_space
from convlens.rundir.runs import preferred_direction

FILE = "sweep.json"
FORMAT = 1
SAMPLERS, PRUNERS, STORAGES = (
    ("tpe", "random"),
    ("none", "median", "halving"),
    ("sqlite", "journal"),
)
STAGES = ("val/", "scores/")
# of trials; each has a run folder of its own
_REFUSED = ("run_dir", "overwrite", "trainer.fast_dev_run")


@dataclass(frozen=True)
class Plan:
    """All that decides the values of a sweep's trials.

    Attributes:
        words: overrides that all trials share.
        space: the text of the space.
        trials: how many there are to be.
        metrics: one or two numbers of a run's summary, at its best epoch.
        sampler, pruner, storage: names, see ``SAMPLERS``, ``PRUNERS`` and ``STORAGES``.
        keep: of how many best trials the checkpoints are kept; None: of all.
        seed: of the sampler. The values of a trial depend on it, on the trial's number, and on the
            results so far.
    """

    words: tuple[str, ...]
    space: str
    trials: int
    metrics: tuple[str, ...]
    sampler: str
    pruner: str
    storage: str
    keep: int | None
    seed: int

    @property
    def domains(self) -> dict[str, Domain]:
        """The domain of each key."""
        return parse_space(self.space)

    @property
    def directions(self) -> list[str]:
        """``minimize`` or ``maximize``, for each metric."""
        return ["maximize" if preferred_direction(m) > 0 else "minimize" for m in self.metrics]

    def check(self) -> None:
        """Check everything that can be known before a trial starts.

        Raises:
            UserError: a value of the space does not compose, a key is in the words too, or the
                metrics and the pruner do not fit.
        """
        domains = self.domains
        keys = [word.partition("=")[0] for word in self.words]
        for key in _REFUSED:
            if key in keys or key in domains:
                raise UserError(f"{key}: each trial of a sweep has its own run; leave {key} out")
        if both := [key for key in keys if key in domains]:
            raise UserError(
                f"{both[0]} is in the space and a word of its own; leave one of them out"
            )
        _check_metrics(self.metrics, self.pruner)
        for corner in list_corners(domains):
            compose([*self.words, *corner])

    def write(self, home: Path) -> None:
        """Write the plan into the folder of its sweep."""
        content = {"format": FORMAT, **asdict(self)}
        write_atomic(home / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_plan(home: Path) -> Plan:
    """Read the plan of a sweep.

    Raises:
        UserError: the folder contains no sweep, or its plan cannot be read.
    """
    file = home / FILE
    if not file.is_file():
        raise UserError(f"resume={home}: there is no sweep; `{command_line('sweep')}` starts one")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if (number := content.pop("format")) != FORMAT:
            raise UserError(f"{file} has format {number}, not {FORMAT}: it needs another version")
        plan = Plan(**content)
        return Plan(**{**asdict(plan), "words": tuple(plan.words), "metrics": tuple(plan.metrics)})
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{file} is not the plan of a sweep ({error})") from error


def _check_metrics(metrics: Sequence[str], pruner: str) -> None:
    if not 1 <= len(metrics) <= 2 or len(set(metrics)) < len(metrics):
        raise UserError(f"metric=[{','.join(metrics)}]: expected one metric, or two different ones")
    for metric in metrics:
        if metric.startswith("test/"):
            raise UserError(
                f"metric={metric}: choosing by the test images would flatter them; take val/…"
            )
        if not metric.startswith(STAGES):
            raise UserError(
                f"metric={metric}: expected a result of validation such as val/loss, or a score of "
                "explanations such as scores/pointing_game"
            )
        if not preferred_direction(metric):
            raise UserError(
                f"metric={metric}: nothing says whether more is better; take val/loss, "
                "val/accuracy, scores/pointing_game or scores/energy_inside"
            )
    if pruner != "none" and (len(metrics) > 1 or not metrics[0].startswith("val/")):
        raise UserError(
            f"pruner={pruner} compares trials epoch by epoch, by one metric of validation such as "
            "val/loss; set pruner=none"
        )
