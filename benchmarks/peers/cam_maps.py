"""The side of pytorch-grad-cam and torch-cam in `cams.py`: Grad-CAM by their own calls.

    cam_maps.py --library pytorch-grad-cam --work FILE --maps FILE --layers 28 ...

The file of ``--work`` contains the network, a plain ``torch.nn.Sequential``, the images and the
classes. A round is ``--steps`` calls for all images. The maps of the first call are written to the
file of ``--maps``, to compare them with those of convlens.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rounds import arguments, claim_stdout, serve


def pytorch_grad_cam(model, layers: list[int], images, classes: list[int]):
    """Return a function that computes the mean over layers of scaled, enlarged maps (B, H, W)."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    extractor = GradCAM(model=model, target_layers=[model[layer] for layer in layers])
    targets = [ClassifierOutputTarget(number) for number in classes]
    return lambda: [torch.from_numpy(extractor(input_tensor=images, targets=targets))]


def torch_cam(model, layers: list[int], images, classes: list[int]):
    """Return a function that computes a map of each layer in its own size, in [0, 1] (B, h, w)."""
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, [model[layer] for layer in layers])
    return lambda: extractor(class_idx=classes, scores=model(images))


LIBRARIES = {"pytorch-grad-cam": pytorch_grad_cam, "torch-cam": torch_cam}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--library", choices=LIBRARIES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    args = parser.parse_args()
    out = claim_stdout()
    # the benchmark has just written this file; it contains a whole module, not only weights
    work = torch.load(args.work, weights_only=False)
    call = LIBRARIES[args.library](work["model"], args.layers, work["images"], work["classes"])
    torch.save(call(), args.maps)

    def measure() -> tuple[int, float]:
        start = time.perf_counter()
        for _ in range(args.steps):
            call()
        return args.steps, time.perf_counter() - start

    about = {"side": args.library, "torch": torch.__version__, "threads": torch.get_num_threads()}
    serve(out, about, measure)


if __name__ == "__main__":
    main()
