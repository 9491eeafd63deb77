"""The side of convlens in the VGG16 benchmarks: extract features, and train the last block.

    ours_vgg16.py vgg16_extract --data DIR ...
    ours_vgg16.py vgg16_frozen --data DIR ...
    ours_vgg16.py vgg16_finetune --data DIR ...

Images, network, augmentation, loss, optimizer and batch size are those of `peers/keras_vgg16.py`.
Features are computed as for the feature cache; training uses the loop of `convlens train`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from ours_scratch import build, rounds_of, serve_training
from rounds import arguments, claim_stdout, serve

BATCH = 20
SIZE = 150
# random weights cost the same; end to end with augmentation, as in the peer's recipe
FROZEN = ("exp=reproduce/vgg16_frozen", "model.weights=none")
RECIPE = (
    *FROZEN,
    "finetune=last_block",
    "finetune.phases=[{epochs: 1, train: [head, last_block], lr: 1e-5}]",
)
TRAINED = {"vgg16_frozen": FROZEN, "vgg16_finetune": RECIPE}


def photographs(data_dir: Path) -> list[tuple[Path, int]]:
    """Return the training photographs with their class indices."""
    classes = sorted(folder for folder in (data_dir / "train").iterdir() if folder.is_dir())
    return [(path, number) for number, c in enumerate(classes) for path in sorted(c.glob("*.jpg"))]


def decoded(paths: list[Path]):
    """Read photographs as (B, 3, H, W) uint8, resized as in the peer."""
    import numpy
    import torch
    from PIL import Image

    images = []
    for path in paths:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
        images.append(numpy.asarray(small))
    return torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2)


def extract_side(data_dir: Path) -> tuple[Callable[[int], int], dict]:
    """Prepare the extraction of features (4×4×512), as for the feature cache.

    The precision is that of a run. Every photograph is read again, as in the peer.

    Returns:
        A function that takes a number of steps and returns the number of their images; and entries
        for the description of this side.
    """
    import torch

    from convlens.config.compose import compose
    from convlens.experiment import train as runs

    run = runs.assemble(compose([*RECIPE, f"data.dir={data_dir}", "callbacks=none"]))
    runs.settle_precision(run)
    precision = str(run.config.precision)
    model = run.module.model.eval()
    cut = len(model.backbone.link_names)
    paths = [path for path, _ in photographs(data_dir)]
    place = 0

    def steps(count: int) -> int:
        nonlocal place
        for _ in range(count):
            if place + BATCH > len(paths):
                place = 0
            images = decoded(paths[place : place + BATCH]).float().div_(255)
            half = precision == "bf16"
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                features = model.features(images, cut)
            assert features.shape == (BATCH, 512, 4, 4)
            place += BATCH
        return count * BATCH

    return steps, {"precision": precision, "memory_format": "channels_last"}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("task", choices=("vgg16_extract", *TRAINED))
    args = parser.parse_args()
    out = claim_stdout()
    if args.task in TRAINED:
        fit, steps, details = build(args.data, TRAINED[args.task])
        serve_training(args, out, fit, rounds_of(args, steps), details)

    import numpy
    import torch

    from convlens.training.memory import keep_freed_memory

    keep_freed_memory()
    steps, details = extract_side(args.data)

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
        **details,
    }
    serve(out, about, measure)


if __name__ == "__main__":
    main()
