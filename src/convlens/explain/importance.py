"""Which units of a layer matter most for the network's predictions.

Shapes: ``B`` batch, ``C`` channels, ``H W`` image size, ``U`` units (channels) of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convlens.explain.captum_layers import hook_layers, read_outputs_with_graph
from convlens.explain.grad_cam import class_scores, pick_scores, probabilities
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.outputs import answering


def unit_effects(
    model: nn.Module, images: Tensor, layers: Sequence[str], *,
    targets: Tensor | None = None, batch: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Estimate what each unit of several layers adds to the logit of a class.

    With ``A`` the output of a layer and ``y`` the logit of the class,

        effect of unit u = sum over positions of  A_u * dy/dA_u

    Its negative is how much the logit would change, to first order, if the unit were set to zero.
    The positions of tokens include class token and registers, which have no place in the image.
    This is the Taylor criterion of P. Molchanov et al., *Pruning Convolutional Neural Networks for
    Resource Efficient Inference*, ICLR 2017, https://arxiv.org/abs/1611.06440, for the logit
    instead of the loss; for each image it is the sum of Captum's ``LayerGradientXActivation``.

    One forward and one backward pass serve all layers. Of a module that is called several times,
    the last call counts. The network and the random state do not change.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, preprocessed as the network expects them.
        layers: module paths whose outputs are maps or features.
        targets: ``(B,)`` class numbers; None for the predicted classes. A one-logit network is
            treated as two classes: ``+logit`` for class 1, ``-logit`` for class 0.
        batch: images per pass; None for all at once.

    Returns:
        Layer name -> ``(B, U)``, signed, on the scale of the logits. Zero for a layer that does
        not lead to the logits.

    Raises:
        UserError: if a layer is unknown, is never called, or returns neither maps nor features; if
            a target is not one of the classes; if the outputs are not logits.
    """
    effects: dict[str, list[Tensor]] = {name: [] for name in layers}
    with explaining(model), answering(model), hook_layers(model, layers, gradients=True) as layouts:
        images = prepare_images(model, images)
        for part in chunks(len(images), batch):
            outputs, logits = read_outputs_with_graph(layouts, images[part])
            if targets is None:  # nothing to check, so nothing waits for the device
                classes = probabilities(logits.detach()).argmax(1)
                scores = pick_scores(logits, classes[:, None])
            else:
                classes = targets[part].to(logits.device, torch.long)
                scores = class_scores(logits, classes[:, None])
            # images do not mix in evaluation mode, so one gradient of the sum has those of all
            score = scores.sum()
            gradients = torch.autograd.grad(score, [*outputs.values()], allow_unused=True)
            for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
                slope = torch.zeros_like(output) if gradient is None else gradient
                product = output.detach() * slope
                effect = layouts.channels_first(name, product)
                if effect.dim() > 2:
                    placeless = layouts.prefix(name, product)
                    effect = effect.flatten(2).sum(2) + placeless.sum(2)
                effects[name].append(effect)
    return {name: torch.cat(pieces) for name, pieces in effects.items()}


def rank_units(effects: Tensor) -> list[int]:
    """Return all units of a layer, the most important first.

    Importance is the mean magnitude of a unit's effect over the images. Equal units keep their
    order; effects that are not finite count as zero.

    Args:
        effects: ``(B, U)``, see ``unit_effects``.

    >>> rank_units(torch.tensor([[0.0, -3.0, 1.0], [0.0, 1.0, 2.0]]))
    [1, 2, 0]
    """
    importance = effects.abs().nan_to_num(0.0, 0.0, 0.0).mean(0)
    return importance.sort(descending=True, stable=True).indices.tolist()
