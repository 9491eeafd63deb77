"""Maps of the evidence for classes, from recorded attention.

Shapes: ``B`` images, ``T`` targets per image, ``K`` classes, ``h w`` grid of patches, ``H W`` size
of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlens.explain.attention import PassRecorder, recording
from convlens.explain.grad_cam import pick_scores, probabilities, resolve_targets
from convlens.explain.mode import chunks, prepare_images

# returns the scores of one target after the other, each summed over the images
Picker = Callable[[Tensor], Iterator[Tensor]]
Compute = Callable[[PassRecorder, Tensor, Picker], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Maps of ``T`` targets for one batch of images; detached.

    Attributes:
        maps: ``(B, T, h, w)``, at least 0; compare values of one image only.
        logits: ``(B, K)``; ``(B, 1)`` for a one-logit network.
        targets: ``(B, T)`` the explained classes.
    """

    maps: Tensor
    logits: Tensor
    targets: Tensor

    @property
    def probabilities(self) -> Tensor:
        """The class probabilities ``(B, K)``; ``(B, 2)`` for a one-logit network."""
        return probabilities(self.logits)

    def upsample(self, size: tuple[int, int]) -> Tensor:
        """Return ``(B, T, H, W)``: the maps resized bilinearly to ``size`` (H, W)."""
        return F.interpolate(self.maps, size=tuple(size), mode="bilinear", align_corners=False)


def explain_classes(
    model: nn.Module, images: Tensor, targets: Tensor, compute: Compute, batch: int | None
) -> ClassMaps:
    """Return what ``compute`` finds for each target.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` classes; -1 for the predicted class, and so on.
        compute: function of a recorder, images and a function that picks the scores of the targets
            from logits, which returns maps ``(B, T, h, w)`` and logits ``(B, K)``.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if a target is not a class.
    """
    targets = targets if targets.dim() == 2 else targets[:, None]
    if targets.dim() != 2 or len(targets) != len(images):
        raise ValueError(f"targets must be (B,) or (B, T) for {len(images)} images")
    maps, logits, classes = [], [], []
    with recording(model) as recorder:
        images = prepare_images(model, images)
        asked = targets.detach().to(images.device, torch.long)
        for part in chunks(len(images), batch):
            resolved: list[Tensor] = []

            def pick(outputs: Tensor, part=part, resolved=resolved) -> Iterator[Tensor]:
                if not resolved:
                    resolved.append(resolve_targets(outputs.detach(), asked[part]))
                # images do not mix in evaluation mode: the gradient of the sum has those of all
                scores = pick_scores(outputs, resolved[0])
                return (scores[:, t].sum() for t in range(scores.shape[1]))

            found, outputs = compute(recorder, images[part], pick)
            maps.append(found.detach())
            logits.append(outputs)
            classes += resolved
    return ClassMaps(torch.cat(maps), torch.cat(logits), torch.cat(classes))
