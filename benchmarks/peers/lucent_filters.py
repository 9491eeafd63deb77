"""The side of lucent in `filters.py`: one filter picture after the other, as in its README.

It calls `render_vis` with lucent's own parametrisation (Fourier, decorrelated colours),
transformations and optimizer, on a canvas of 128×128 pixels. VGG16 has random weights. A round
draws ``--filters`` filters.
"""

import sys
import time
from pathlib import Path

import torch
import torchvision
from lucent.optvis import param, render

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rounds import arguments, claim_stdout, serve


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--layer", required=True, help="lucent's name of the layer, such as features_2"
    )
    parser.add_argument("--filters", type=int, required=True)
    args = parser.parse_args()
    out = claim_stdout()
    model = torchvision.models.vgg16(init_weights=False).eval()

    def picture(unit: int, steps: int) -> None:
        render.render_vis(
            model, f"{args.layer}:{unit}", param_f=lambda: param.image(128), thresholds=(steps,),
            show_image=False, progress=False,
        )  # fmt: skip

    def measure() -> tuple[int, float]:
        start = time.perf_counter()
        for unit in range(args.filters):
            picture(unit, args.steps)
        return args.filters, time.perf_counter() - start

    picture(0, 1)
    about = {"side": "lucent", "torch": torch.__version__, "threads": torch.get_num_threads()}
    serve(out, about, measure)


if __name__ == "__main__":
    main()
