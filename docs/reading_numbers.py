"""Print the figures of `docs/reading.md` that no command prints.

    .venv/bin/python docs/reading_numbers.py

It takes seconds. The weights of EfficientNet-Lite0 come from `weights/`, `$CONVLENS_WEIGHTS` or a
download.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convlens
from convlens.experiment.inputs import EXAMPLE
from convlens.experiment.networks import load_network
from convlens.explain import grad_cam, occlusion

CAT = Path(__file__).resolve().parents[1] / "tests" / "photographs" / "cat.jpg"
NETWORK = ["model=timm", "model.name=tf_efficientnet_lite0", "model.head=imagenet"]
LAST = "backbone.bn2.act"


def print_saturation(network: nn.Module, image: Tensor) -> None:
    """Compare the gradients of the best logit and of its probability; the image is (1, C, H, W)."""
    image = image.clone().requires_grad_()
    logits = network(image)
    best = int(logits.argmax())
    probability = logits.softmax(1)[0, best]
    sizes = [
        torch.autograd.grad(value, image, retain_graph=True)[0].abs().sum().item()
        for value in (logits[0, best], probability)
    ]
    print(
        f"probability {probability:.3f}: its gradient is {sizes[1] / sizes[0]:.1%} of the logit's"
    )


def print_windows(network: nn.Module, image: Tensor) -> None:
    """Cover quarters of the sides with the mean colour; print the lowest logit and probability."""
    before, side = network(image)[0], image.shape[-1] // 4
    best, found = int(before.argmax()), []
    starts = range(0, image.shape[-1] - side + 1, side // 2)
    for top, left in ((top, left) for top in starts for left in starts):
        covered = image.clone()
        covered[..., top : top + side, left : left + side] = image.mean((2, 3), keepdim=True)
        after = network(covered)[0]
        found.append((float(before[best] - after[best]), float(after.softmax(0)[best])))
    for fall, probability in (max(found), min(found, key=lambda each: each[1])):
        print(f"a window takes {fall:.2f} from the logit and leaves {probability:.2f}")


def print_covers(network: nn.Module, image: Tensor) -> None:
    """Print how covers of several colours change the logit where Grad-CAM is highest."""
    target = network(image).argmax(1)[:, None]
    found = grad_cam(network, image, target, [LAST]).maps[LAST][0]
    evidence = F.interpolate(found[None], size=image.shape[-2:], mode="bilinear")[0, 0]
    bright = evidence >= evidence.flatten().quantile(0.75)
    for colour in ("mean", 0.0):
        falls = occlusion(network, image, target, window=56, stride=28, baseline=colour).maps[0, 0]
        print(f"covered with {colour}: the logit falls by {falls[bright].mean():.2f} there")


def main() -> None:
    example = convlens.load(next(EXAMPLE.glob("*.ckpt")))
    disc = example.read(EXAMPLE / "pictures" / "disc.png")[None]
    large, _ = load_network(None, NETWORK)
    print_saturation(example.network, disc)
    with torch.no_grad():
        print_windows(example.network, disc)
    print_covers(large.network, large.read(CAT)[None])


if __name__ == "__main__":
    main()
