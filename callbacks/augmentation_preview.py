"""What the run's augmentation makes of a picture."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.core.errors import UserError
from convlens.draw.picture_sheet import augmentation_sheet


class AugmentationPreview(ExplanationCallback):
    """``augmentation/<probe>``: a picture and many draws of the run's own augmentation.

    Drawn once, before training; a run without augmentation shows nothing. The draws depend on the
    run's seed alone.

    Args:
        draws: augmented versions of a picture.
        probes: how many of the probes are shown.
    """

    def __init__(self, *, draws: int = 8, probes: int = 1):
        super().__init__()
        self.draws, self.shown = draws, probes

    def select_layers(self, network, example) -> list[str]:
        for key, value in {"draws": self.draws, "probes": self.shown}.items():
            if value < 1:
                raise UserError(f"callbacks.augmentation_preview.{key}={value}: expected 1 or more")
        return []

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"augmentation/<probe>": min(self.shown, probes)}

    def pictures(self, look: Look) -> Findings:
        if look.augment is None or look.clock != 0:
            return
        self.select_layers(look.network, look.example)
        shown = sorted(look.probes.in_turns()[: self.shown])
        images = look.probes.images[shown]
        # one batch, in which every picture has draws of its own
        repeated = images.repeat_interleave(self.draws, dim=0)
        versions = look.augment(repeated, look.seed).unflatten(0, (len(images), self.draws)).cpu()
        names = [look.probes.names[number] for number in shown]
        for image, drawn, probe in zip(images.cpu(), versions, names, strict=True):
            yield f"augmentation/{probe}", augmentation_sheet(image, drawn, f"{probe} · augmented")
