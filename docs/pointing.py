"""Print how often maps of a network trained on shapes peak on the object, on test images.

.venv/bin/python docs/pointing.py outputs/tour/transformer/checkpoints/best.ckpt
"""

from __future__ import annotations

import sys

import torch

import convlens
from convlens.data.sources.shapes import draw_shapes
from convlens.explain import choose_layers, grad_cam, legrad
from convlens.explain.rollout import attention_rollout
from convlens.explain.scores import pointing_game

COUNT, BATCH = 300, 50


def main(checkpoint: str) -> None:
    explainer = convlens.load(checkpoint, device="cpu")
    network, (channels, size, _) = explainer.network, explainer.shape
    classes = len(explainer.class_names)
    drawn = draw_shapes(
        COUNT, size=size, channels=channels, classes=classes, seed=0, stream=2, objects=1
    )
    images = torch.from_numpy(drawn["images"]).permute(0, 3, 1, 2) / 255
    masks, predicted = torch.from_numpy(drawn["masks"]), torch.full((COUNT,), -1)
    (layer,) = choose_layers(network, "auto", "grad_cam", example=images[:1])
    maps = {
        "Grad-CAM": grad_cam(network, images, predicted, [layer], batch=BATCH).maps[layer][:, 0],
        "LeGrad": legrad(network, images, predicted, batch=BATCH).maps[:, 0],
        "attention rollout": attention_rollout(network, images, batch=BATCH),
    }
    print(f"{'a random pixel':>20} {float(masks.float().mean()):.3f}")
    for name, each in maps.items():
        print(f"{name:>20} {float(pointing_game(each, masks).nanmean()):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
