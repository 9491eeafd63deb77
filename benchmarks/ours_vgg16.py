"""Our side of the VGG16 benchmarks: features of photographs, and training of the last block.

    ours_vgg16.py vgg16_extract --data DIR ...
    ours_vgg16.py vgg16_finetune --data DIR ...

Same pictures, network, augmentation, loss, optimizer and batch size as `peers/keras_vgg16.py`.
`extract_side` and `finetune_side` get a task ready and return a function that does so many steps
of 20 pictures and returns the number of pictures, and what the results shall say of it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rounds import arguments, claim_stdout, serve

BATCH = 20
SIZE = 150
TRAINED = 9_177_089  # of block5 and the head


def photographs(data_dir: Path) -> list[tuple[Path, int]]:
    """The training photographs with the number of their class."""
    classes = sorted(folder for folder in (data_dir / "train").iterdir() if folder.is_dir())
    return [(path, number) for number, c in enumerate(classes) for path in sorted(c.glob("*.jpg"))]


def decoded(paths: list[Path]):
    """Photographs as (B, 3, H, W) uint8, resized as the peer does it."""
    import numpy
    import torch
    from PIL import Image

    pictures = []
    for path in paths:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
        pictures.append(numpy.asarray(small))
    return torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2)


def base():
    """torchvision's 13 convolutions with weights that let signals through, in ``channels_last``."""
    import torch
    from torch import nn
    from torchvision.models import vgg

    layers = vgg.make_layers(vgg.cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return layers.to(memory_format=torch.channels_last)


def extract_side(data_dir: Path) -> tuple[Callable[[int], int], dict]:
    """Files to features (4×4×512); every photograph is read again, as at the peer's."""
    from convlens.models.winograd import FrozenChain

    paths = [path for path, _ in photographs(data_dir)]
    run = FrozenChain(base().eval().requires_grad_(False))
    place = 0

    def steps(count: int) -> int:
        nonlocal place
        for _ in range(count):
            if place + BATCH > len(paths):
                place = 0
            features = run(decoded(paths[place : place + BATCH]).float().div_(255))
            assert features.shape == (BATCH, 512, 4, 4)
            place += BATCH
        return count * BATCH

    return steps, {"precision": "32", "frozen": "winograd"}


def finetune_side(data_dir: Path) -> tuple[Callable[[int], int], dict]:
    """Training steps: blocks 1-4 frozen, block5 and the head trained, pictures augmented.

    The photographs are decoded once, here, as convlens's cache does it.
    """
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits

    from convlens.data.augment import DRAWS, Augmentation
    from convlens.models.winograd import FrozenChain

    listed = photographs(data_dir)
    pixels = decoded([path for path, _ in listed])
    labels = torch.tensor([[float(label)] for _, label in listed])
    augment = Augmentation(
        rotation_degrees=40,
        width_shift=0.2,
        height_shift=0.2,
        shear_degrees=0.2,
        zoom=0.2,
        horizontal_flip=True,
    )

    layers = base()
    fourth = [number for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][3]
    frozen = FrozenChain(layers[: fourth + 1].eval().requires_grad_(False))
    trained = nn.Sequential(
        *layers[fourth + 1 :],
        nn.Flatten(),
        nn.Linear(512 * 4 * 4, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 1),
    )
    assert sum(parameter.numel() for parameter in trained.parameters()) == TRAINED
    optimizer = torch.optim.RMSprop(trained.parameters(), lr=1e-5, alpha=0.9, eps=1e-7)

    def steps(count: int) -> int:
        for _ in range(count):
            rows = torch.randint(len(labels), (BATCH,))
            pictures = augment(pixels[rows].float().div_(255), torch.rand(BATCH, DRAWS))
            loss = binary_cross_entropy_with_logits(trained(frozen(pictures)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return count * BATCH

    return steps, {"precision": "32", "frozen": "winograd"}


TASKS = {"vgg16_extract": extract_side, "vgg16_finetune": finetune_side}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    args = parser.parse_args()
    out = claim_stdout()

    import numpy
    import torch

    from convlens.training.memory import keep_freed_memory

    keep_freed_memory()
    steps, told = TASKS[args.task](args.data)

    def measure() -> tuple[int, float]:
        steps(args.warmup_steps)
        start = time.perf_counter()
        images = steps(args.steps)
        return images, time.perf_counter() - start

    about = {
        "side": "convlens",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "threads": {
            "intra_op": torch.get_num_threads(),
            "inter_op": torch.get_num_interop_threads(),
        },
        **told,
    }
    serve(out, about, measure, args.repeats)


if __name__ == "__main__":
    main()
