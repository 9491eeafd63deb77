"""Our side of the VGG16 benchmarks: features of photographs, and training of the last block.

    ours_vgg16.py vgg16_extract --data DIR ...
    ours_vgg16.py vgg16_frozen --data DIR ...
    ours_vgg16.py vgg16_finetune --data DIR ...

Same pictures, network, augmentation, loss, optimizer and batch size as `peers/keras_vgg16.py`.
Features are computed as the feature cache does it; training is `convlens train`'s own loop.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from ours_scratch import build, rounds_of, serve_training
from rounds import arguments, claim_stdout, serve

BATCH = 20
SIZE = 150
# random weights cost the same; end to end with augmentation, as the peer's recipe is
FROZEN = ("exp=reproduce/vgg16_frozen", "model.weights=none")
RECIPE = (
    *FROZEN,
    "finetune=last_block",
    "finetune.phases=[{epochs: 1, train: [head, last_block], lr: 1e-5}]",
)
TRAINED = {"vgg16_frozen": FROZEN, "vgg16_finetune": RECIPE}


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


def extract_side(data_dir: Path) -> tuple[Callable[[int], int], dict]:
    """Files to features (4×4×512), as the feature cache computes them, in the precision that a
    run would choose; every photograph is read again, as at the peer's."""
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
            pictures = decoded(paths[place : place + BATCH]).float().div_(255)
            half = precision == "bf16"
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                features = model.features(pictures, cut)
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
        fit, steps, told = build(args.data, TRAINED[args.task])
        serve_training(args, out, fit, rounds_of(args, steps), told)

    import numpy
    import torch

    from convlens.training.memory import keep_freed_memory

    keep_freed_memory()
    steps, told = extract_side(args.data)

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
    serve(out, about, measure)


if __name__ == "__main__":
    main()
