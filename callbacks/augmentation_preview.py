"""Augmented versions of some probes, as training sees them."""

from __future__ import annotations

from functools import partial

from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.draw.picture_sheet import augmentation_sheet


class AugmentationPreview(ExplanationCallback):
    """``training/augmentation/<probe>``: an image and random draws of the run's augmentation.

    It is drawn once, before training, and not at all in a run without augmentation. The draws
    depend on the run's seed only.

    Args:
        draws: number of augmented versions of each image.
        probes: number of probes to show.
    """

    def __init__(self, *, draws: int = 8, probes: int = 1):
        super().__init__()
        self.draws, self.probe_count = draws, probes

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        for key, value in {"draws": self.draws, "probes": self.probe_count}.items():
            if value < 1:
                raise UserError(f"{self.config_key}.{key}={value}: expected 1 or more")
        return []

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"training/augmentation/<probe>": min(self.probe_count, probes)}

    def pictures(self, look: Look) -> Findings:
        if look.augment is None or look.clock != 0:
            return
        self.select_layers(look.network, look.example)
        numbers = sorted(look.probes.order_in_turns()[: self.probe_count])
        images = look.probes.images[numbers]
        # one batch, in which every image is drawn independently
        repeated = images.repeat_interleave(self.draws, dim=0)
        versions = look.augment(repeated, look.seed).unflatten(0, (len(images), self.draws)).cpu()
        names = [look.probes.names[number] for number in numbers]
        for image, draws, probe in zip(images.cpu(), versions, names, strict=True):
            make = partial(augmentation_sheet, image, draws, f"{probe} · augmented")
            yield from self.draw(look, f"training/augmentation/{probe}", make)
