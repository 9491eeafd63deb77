"""Measure what torchcodec gains over Pillow, for each kind of image file.

    .venv/bin/python benchmarks/decoding.py --data DIR        (photographs, in folders of any depth)

The photographs are written again in several sizes and formats, into a temporary folder. Each file
is decoded and resized by `data.decode=exact`, by `data.decode=fast`, and by torchcodec whatever the
file (`everywhere`), behind the same checks of its header. One thread computes, and its processor
time counts, for which it matters less what else the machine does. The order of the sides changes
from round to round. The milliseconds of a file, and the ratios exact / other of each round, are
printed and written to `benchmarks/results/decoding.json`.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results import RESULTS, processor, spread, write_result
from torchcodec.decoders import decode_image as decode_with_torchcodec

from convlens.data.pixels.decode import Recipe, decode_image, open_image
from convlens.data.pixels.load import pillow_settings

# kind of file -> number of files, width, height and options of Pillow's writer
KINDS = {
    "JPEG, 120×160": (120, 120, 160, {"format": "JPEG"}),
    "JPEG, 320×240": (120, 320, 240, {"format": "JPEG"}),
    "JPEG, 500×375": (60, 500, 375, {"format": "JPEG"}),
    "progressive JPEG, 500×375": (60, 500, 375, {"format": "JPEG", "progressive": True}),
    "JPEG, 800×600": (40, 800, 600, {"format": "JPEG"}),
    "JPEG, 12 megapixels": (8, 4000, 3000, {"format": "JPEG"}),
    "PNG, 500×375": (30, 500, 375, {"format": "PNG"}),
}


def write_files(photographs: list[Path], folder: Path, kind: str) -> list[Path]:
    """Write photographs as files of one kind; JPEGs have a quality of 90."""
    count, width, height, options = KINDS[kind]
    files = []
    for number, photograph in enumerate(photographs[:count]):
        image = Image.open(photograph).convert("RGB").resize((width, height), Image.BICUBIC)
        files.append(folder / f"{list(KINDS).index(kind)}_{number}")
        image.save(files[-1], quality=90, **options)
    return files


def decode_everywhere(path: Path, recipe: Recipe) -> np.ndarray:
    """Decode any image in colour with torchcodec."""
    open_image(path).close()
    image = decode_with_torchcodec(path.read_bytes(), mode="RGB")[None]
    image = image.contiguous(memory_format=torch.channels_last)
    size = (recipe.height, recipe.width)
    scaled = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).contiguous().numpy()


def main() -> int:
    root = os.environ.get("CONVLENS_DATA", "data")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(root) / "cats_dogs")
    parser.add_argument("--size", type=int, default=150, help="of the results, pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "decoding.json")
    args = parser.parse_args()
    photographs = sorted(args.data.rglob("*.jpg"))
    if not photographs:
        parser.error(f"no .jpg in {args.data}: set --data to a folder of photographs")
    random.Random(0).shuffle(photographs)
    torch.set_num_threads(1)
    recipe = Recipe(args.size, args.size)
    sides = {
        "exact": lambda path: decode_image(path, recipe),
        "fast": lambda path: decode_image(path, replace(recipe, decode="fast")),
        "everywhere": lambda path: decode_everywhere(path, recipe),
    }
    tasks = {}
    print(f"{'':28}" + "".join(f"{side:>12}" for side in sides) + "   [ms each]", flush=True)
    with tempfile.TemporaryDirectory() as folder, pillow_settings():
        for kind in KINDS:
            files = write_files(photographs, Path(folder), kind)
            differences = [
                int(abs(sides["fast"](path).astype(int) - sides["exact"](path)).max())
                for path in files
            ]
            rounds = []
            for number in range(args.rounds):
                seconds = {}
                for side in list(sides)[:: 1 if number % 2 else -1]:
                    began = time.thread_time()
                    for path in files:
                        sides[side](path)
                    seconds[side] = 1000 * (time.thread_time() - began) / len(files)
                rounds.append(seconds)
            ratios = {
                side: spread([each["exact"] / each[side] for each in rounds])
                for side in ("fast", "everywhere")
            }
            medians = {side: statistics.median(each[side] for each in rounds) for side in sides}
            tasks[kind] = {"rounds": rounds, "ratios": ratios, "difference": max(differences)}
            print(
                f"{kind:28}" + "".join(f"{value:12.2f}" for value in medians.values())
                + f"   fast {ratios['fast']['median']:.2f}"
                f", everywhere {ratios['everywhere']['median']:.2f} times as fast; "
                f"fast differs by at most {max(differences)}",
                flush=True,
            )  # fmt: skip
    print(processor())
    write_result(args.out, f"decoding to {args.size}×{args.size} pixels, one thread", tasks=tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
