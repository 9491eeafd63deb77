"""Whether every batch can be normalised: torch has no statistics of a single value."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from convlens.config.schema import DataConfig
from convlens.core.errors import SharedError
from convlens.core.evaluation import evaluation_mode
from convlens.data.datamodule import PictureData
from convlens.training.module import ClassifierModule


def find_batch_normalised(module: ClassifierModule) -> list[str]:
    """The layers that some phase of the schedule normalises by the batch, by name."""
    before, found = module.phase, {}
    for phase in module.schedule.phases:
        module.enter(phase)
        layers = module.model.named_modules()
        found |= {n: None for n, part in layers if isinstance(part, _BatchNorm) and part.training}
    module.enter(before)
    return list(found)


def check_batches(module: ClassifierModule, data: PictureData, processes: int) -> None:
    """Whether every process can normalise every batch that it gets.

    torch has no statistics of a single value a channel: of one image behind the pooling, or where
    the maps have come down to one pixel. Which layers those are, one pass in evaluation mode says.

    Raises:
        SharedError: a process would get a batch of one image that such a layer refuses.
    """
    order = data.order(processes)
    if order.smallest // processes > 1 or not (layers := find_batch_normalised(module)):
        return
    single = _single_values(module, data.spec)
    if refused := [name for name in layers if name in single]:
        who = f"{processes} processes" if processes > 1 else "one process"
        raise SharedError(
            f"a batch of one image cannot be normalised ({refused[0]}): {order.count} training "
            f"images in batches of {order.batch_size} over {who} leave one over; set "
            f"training.batch_size to at least {2 if data.per_device else 2 * processes}, add "
            f"images, or leave out batch normalisation (model.batch_norm=false, "
            f"finetune.batch_norm=eval)"
        )


@torch.no_grad()
def _single_values(module: ClassifierModule, spec: DataConfig) -> set[str]:
    """The layers to which one image gives one value a channel."""
    found: set[str] = set()

    def note(name: str, _part, inputs: tuple) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.add(name)

    model = module.model
    example = next(model.parameters()).new_zeros(1, spec.channels, spec.size, spec.size)
    handles = [
        part.register_forward_pre_hook(partial(note, name))
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm)
    ]
    try:
        with evaluation_mode(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
