"""What the network said about each training image, each time it was trained on.

Everything follows from the logits of the training step: no image is run again. A step only keeps
its logits; many steps together are turned into a few numbers per image, on the device, and nothing
waits for it before the end of the epoch.

Legend: n images of a step, K classes. With several classes per image every array has a column per
class, whose label is whether the image has it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HELD = 1 << 20  # logits that are kept before they are turned into a few numbers per image


@dataclass(frozen=True)
class Presentations:
    """Some presentations of images to the network, in the order of training.

    Attributes:
        batch: (n,) int64, the number of the batch in its epoch.
        row: (n,) int64, the image's position in the split.
        margin: (n,) or (n, K), the logit of the given label minus the largest other logit.
        loss: the same shape, cross-entropy of the given label in nats.
        share: the same shape, share of the given label in what the image was trained on: 1, or
            less if it was mixed with another image.
        right: the same shape, bool, whether the given label was predicted.
        other: (n,) int64, the class of the largest other logit; (n, 0) with several classes.
    """

    batch: np.ndarray
    row: np.ndarray
    margin: np.ndarray
    loss: np.ndarray
    share: np.ndarray
    right: np.ndarray
    other: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, chosen: np.ndarray) -> Presentations:
        """Return those at some indices."""
        return Presentations(*(getattr(self, each.name)[chosen] for each in fields(self)))


def join(parts: list[Presentations]) -> Presentations:
    """Return the presentations of all processes in the order of one process.

    Each process trains on consecutive images of a batch, so batches are put back together in the
    order of the processes.

    Args:
        parts: of each process, in the order of their ranks.
    """
    columns = ([getattr(part, each.name) for part in parts] for each in fields(Presentations))
    whole = Presentations(*(np.concatenate(column) for column in columns))
    return whole.select(np.argsort(whole.batch, kind="stable"))


def gather_parts(mine: Any) -> list:
    """Return what each process gives, in the order of their ranks; every process must call it."""
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, mine)
    return parts


class OpenEpoch:
    """The presentations of the epoch under way, in one process."""

    def __init__(self):
        self._steps: list[tuple[int, Tensor, Tensor, Tensor, Tensor | None]] = []
        self._parts: list[tuple[Tensor, ...]] = []
        self._held = 0

    @torch.no_grad()
    def take(self, logits: Tensor, batch: dict, number: int) -> None:
        """Note a training step.

        Args:
            logits: (B, K) or (B, 1), as the step computed them.
            batch: with ``row``, ``label`` and, of mixed images, ``target``; the images that do not
                count (see ``convlens.data.loader``) are left out.
            number: of the batch in the epoch.
        """
        if not (count := batch.get("counted", len(logits))):
            return
        # a copy: a recorded graph computes the next step's logits in the same memory
        logits, target = logits.detach()[:count].clone(), batch.get("target")
        target = None if target is None else target[:count]
        self._steps.append((number, batch["row"][:count], logits, batch["label"][:count], target))
        self._held += logits.numel()
        if self._held >= HELD:
            self._measure()

    def _measure(self) -> None:
        if not self._steps:
            return
        numbers, rows, logits, labels, targets = zip(*self._steps, strict=True)
        self._steps, self._held = [], 0
        mixed = None if targets[0] is None else torch.cat(targets)
        counts = torch.tensor([len(each) for each in rows])
        batch = torch.tensor(numbers).repeat_interleave(counts)
        self._parts.append(
            (batch, torch.cat(rows), *measure(torch.cat(logits), torch.cat(labels), mixed))
        )

    def read(self) -> Presentations | None:
        """Return the presentations so far, on the host; None if there are none."""
        self._measure()
        if not self._parts:
            return None
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        return Presentations(*(column.cpu().numpy() for column in columns))

    def state(self) -> dict[str, list]:
        """Return what is held and measured, on the CPU, for a checkpoint amid the epoch.

        What is held stays as it is: in other portions, a vectorised function may round otherwise.
        """
        return _move({"steps": self._steps, "parts": self._parts}, torch.device("cpu"))

    def load(self, state: dict[str, list], device: torch.device) -> None:
        """Continue with the state of a checkpoint."""
        moved = _move(state, device)
        self._steps = list(moved.get("steps", []))
        self._parts = [(part[0].cpu(), *part[1:]) for part in moved.get("parts", [])]
        self._held = sum(step[2].numel() for step in self._steps)


def _move(value: Any, device: torch.device) -> Any:
    """Return a copy of nested lists of tensors on a device."""
    if isinstance(value, dict):
        return {key: _move(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_move(each, device) for each in value)
    return value.to(device, copy=True) if isinstance(value, Tensor) else value


def measure(logits: Tensor, labels: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return margin, loss, share, right and other, as ``Presentations`` has them.

    Args:
        logits: (n, K), or (n, 1) that of class 1 of two.
        labels: (n,) int64, or (n, K) bool if images may have several classes.
        target: (n, K), shares of the classes in mixed images; None without mixing.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    several = labels.dim() == 2
    if several or logits.shape[1] == 1:
        z, yes = (logits, labels) if several else (logits[:, 0], labels == 1)
        margin = torch.where(yes, z, -z)
        loss, right = F.softplus(-margin), (z > 0) == yes
        other = labels.new_zeros((len(labels), 0), dtype=torch.long) if several else 1 - labels
    else:
        own = logits.gather(1, labels[:, None])[:, 0]
        is_own = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
        largest, other = logits.masked_fill(is_own, -torch.inf).max(dim=1)
        margin, loss = own - largest, logits.logsumexp(dim=1) - own
        right = logits.argmax(dim=1) == labels
    share = torch.ones_like(margin)
    if target is not None:
        target = target.to(margin.dtype)
        if several:
            share = torch.where(labels, target, 1 - target)
        else:
            share = target.gather(1, labels[:, None])[:, 0]
    return margin, loss, share, right, other
