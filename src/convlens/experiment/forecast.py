"""Say beforehand how much of each explanation the looks of a run have time for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from convlens.callbacks import ExplanationCallback, Ledger
from convlens.callbacks.ledger import Moment
from convlens.callbacks.look import Look, Portion
from convlens.core.evaluation import preserve_modes
from convlens.data.probes import Probes
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")
MOMENTS: tuple[Moment, ...] = ("start", "epoch", "end", "test")
REHEARSED = 2  # probes explained to measure what one takes; the first is slower
LONGEST = 2.0  # seconds by estimate up to which an explanation is measured
NO_TIME, UNKNOWN = "no time", "as time allows"


@dataclass(frozen=True)
class Forecast:
    """What the looks of a run have time for, by estimate.

    Attributes:
        pass_seconds: seconds of a forward pass of one image.
        allowed: seconds that the looks may take together, by moment; for ``epoch``, the least of
            all epochs.
        cells: by explanation, in the order of worth, what of it there is time for, by moment.
    """

    pass_seconds: float
    allowed: dict[Moment, float]
    cells: dict[str, dict[Moment, str]]


def forecast_looks(
    module: ClassifierModule, looks: Sequence[ExplanationCallback], ledger: Ledger,
    epochs: Sequence[float], *, shape: tuple[int, int, int], probes: int, device: torch.device,
) -> Forecast | None:  # fmt: skip
    """Estimate what the looks of a run have time for.

    The explanations that are quick enough are drawn for two probes, and timed.

    Args:
        module: the module; its network is explained.
        looks: the explanations, in the order of worth.
        ledger: of the run, before it begins.
        epochs: seconds of each epoch without its look; 0 if they are unknown.
        shape: (C, H, W) of an image.
        probes: number of probes.
        device: of the run.

    Returns:
        None if nothing of the run takes time that could be estimated.
    """
    allowed = _allow(deepcopy(ledger), epochs)
    network = module.model.to(device)
    with preserve_modes(module), ExitStack() as adapted, torch.random.fork_rng():
        if looks:  # all of them call the network in the same way
            adapted.enter_context(looks[0].adapt(network, outputs="logits", preprocessed=False))
        look = Look(
            network, _make_probes(probes, shape, device), tuple(module.class_names), clock=1,
            final=False, deadline=float("inf"), seed=0,
        )  # fmt: skip
        moments = {
            "start": replace(look, clock=0), "epoch": look,
            "end": replace(look, final=True), "test": replace(look, final=True, stage="test"),
        }  # fmt: skip
        seconds = look.pass_seconds
        for each in looks:
            _rehearse(each, look, shape, device)
        costly = [each for each in looks if each.portion(look)]
        cells: dict[str, dict[Moment, str]] = {each.kind: {} for each in costly}
        for moment in MOMENTS:
            left = allowed[moment]
            for each in costly:
                portion = each.portion(moments[moment])
                if portion is None or not _is_due(each, moment):
                    continue
                count, whole = _count(look, portion, left)
                cells[each.kind][moment] = _describe(portion, count)
                left -= whole * count / portion.units
    module.model.to("cpu")
    return Forecast(seconds, allowed, cells) if cells else None


def _allow(ledger: Ledger, epochs: Sequence[float]) -> dict[Moment, float]:
    """Return the seconds that each look may take if those before training take all of theirs."""
    start = ledger.seconds_left("start")
    ledger.epochs = {number: [own, 0.0] for number, own in enumerate(epochs, 1)}
    ledger.around["start"] = start if start < float("inf") else 0.0
    return {
        "start": start, "epoch": ledger.allow(min(epochs, default=0.0)),
        "end": ledger.seconds_left("end"), "test": ledger.seconds_left("test"),
    }  # fmt: skip


def _make_probes(count: int, shape: tuple[int, int, int], device: torch.device) -> Probes:
    """Return grey images whose class is unknown, so that every explanation draws them."""
    names = [str(number) for number in range(count)]
    images = torch.full((count, *shape), 0.5, device=device)
    return Probes(images, torch.full((count,), -1), names, names)


def _rehearse(
    each: ExplanationCallback, look: Look, shape: tuple[int, int, int], device: torch.device
) -> None:
    """Draw an explanation for two probes, so that the pace knows what one takes, if it is quick."""
    portion = each.portion(look)
    if portion is None or portion.is_bound:
        return
    if look.estimate(portion.kind, REHEARSED, portion.passes) > LONGEST:
        return
    few = replace(
        look, probes=_make_probes(REHEARSED, shape, device),
        deadline=time.perf_counter() + LONGEST,
    )  # fmt: skip
    try:
        for _ in each.pictures(few):
            pass
    except Exception:  # the run itself would report it and continue
        log.debug("traceback", exc_info=True)


def _is_due(each: ExplanationCallback, moment: Moment) -> bool:
    if moment == "test":
        return each.looks_at_test
    return moment != "end" or each.has_final_look  # others only draw what the last epoch left out


def _count(look: Look, portion: Portion, left: float) -> tuple[int, float]:
    """Return how many units fit into the seconds left, and the seconds of all units."""
    whole = look.estimate(portion.kind, portion.units, portion.passes)
    if whole <= left:
        return portion.units, whole
    count = int(portion.units * max(left, 0.0) / whole)
    return count if count >= portion.least else 0, whole


def _describe(portion: Portion, count: int) -> str:
    if count == portion.units:
        return f"{count} {portion.what}"
    if portion.is_bound:
        return UNKNOWN
    return f"{count} of {portion.units} {portion.what}" if count else NO_TIME
