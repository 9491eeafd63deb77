"""LeGrad: which patches raise the score of a class, for each probe, in transformers."""

from __future__ import annotations

from convlens.callbacks.evidence import explain_attention
from convlens.callbacks.evidence_maps import EvidenceMaps, Found
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.draw.attention_panel import LEGRAD_READING
from convlens.explain.legrad import POOLINGS
from convlens.explain.obstacles import find_obstacle


class LeGrad(EvidenceMaps):
    """``legrad/<probe>``: LeGrad maps of the predicted and the true class over the photograph.

    It explains networks in which all blocks attend among all tokens: ViT, DeiT, DINOv2 and others.
    With ``pool="auto"`` a convlens run leaves it out for other networks. Numbers of maps:
    ``convlens.open_run(run).maps("legrad")``. For scales, classes and time see ``EvidenceMaps``.

    Args:
        pool: which tokens of a block the classifier gets: ``mean`` of all, or those that the
            ``network`` reads, see ``convlens.explain.legrad``. ``auto`` is ``mean``, and shows
            nothing of networks that LeGrad cannot explain; the others refuse them.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        classes: maps to keep for each probe with ``target="answer"``: of the predicted class, the
            true class, and the next most probable ones. Pictures show the first two.
        pixelated: whether pictures show the patches with sharp edges.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.

    Raises:
        UserError: ``pool`` has another value.
    """

    kind = "LeGrad"
    tag = "legrad"
    config_key = "callbacks.legrad"
    reading = LEGRAD_READING
    for_some_networks = True

    def __init__(
        self, *, pool: str = "auto", target: str = "answer", classes: int = 2,
        pixelated: bool = False, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(
            target=target, classes=classes, pixelated=pixelated, every_n_epochs=every_n_epochs,
            batch=batch,
        )  # fmt: skip
        if pool not in ("auto", *POOLINGS):
            raise UserError(f"{self.config_key}.pool={pool}: {nearest(pool, ['auto', *POOLINGS])}")
        self.is_named, self.pool = pool != "auto", "mean" if pool == "auto" else pool

    @property
    def state_key(self) -> str:
        return self._generate_state_key(pool=self.pool, target=self.target)

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        super().select_layers(network, example)
        obstacle = find_obstacle(network, example, "legrad") if self.is_named else ""
        if obstacle:
            raise UserError(obstacle)
        return []

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        return find_obstacle(network, example, "legrad")

    def estimate_passes(self, classes: int) -> float:
        return 2.0 + classes  # attention is written out; a short backward pass in each block

    def explain(self, look: Look, images: Tensor, targets: Tensor) -> Found:
        found = explain_attention(self, look, images, targets, self.pool)
        return Found(found.maps, found.logits, found.targets)
