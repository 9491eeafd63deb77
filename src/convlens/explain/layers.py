"""Find the layers of a network that are worth showing, and choose among them by name.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.axes import AxisTracker, Layout
from convlens.explain.mode import explaining, prepare_images

T = TypeVar("T")
KINDS = ("activations", "filters", "grad_cam")

_CLASSES = {
    "conv": nn.modules.conv._ConvNd,
    "norm": nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.LocalResponseNorm,
    "dense": nn.Linear,
}
_FEWEST_STAGES = 3  # whole ones; fewer would not show the depth
_NOT_SHOWN = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def layer_kind(module: nn.Module) -> str | None:
    """Return ``"conv"``, ``"norm"``, ``"activation"``, ``"pool"``, ``"dense"``, or None.

    Activations are recognised by the Python module that defines them, poolings by name. This
    covers those of timm and torchvision without importing either.

    >>> layer_kind(nn.ReLU()), layer_kind(nn.Conv2d(3, 8, 3)), layer_kind(nn.Flatten())
    ('activation', 'conv', None)
    """
    for name, classes in _CLASSES.items():
        if isinstance(module, classes):
            return name
    kind = type(module)
    source = kind.__module__.rpartition(".")[2]
    if source.startswith("activation") and not isinstance(module, _NOT_SHOWN):
        return "activation"
    return "pool" if "Pool" in kind.__name__ else None


def explainable_layers(model: nn.Module) -> list[str]:
    """Return the paths of the layers worth showing, in the order of their registration.

    These are convolutions, normalisations, activations, poolings and dense layers, innermost
    modules only (timm's ``BatchNormAct2d`` is represented by its activation). A module that is
    registered under two names appears under the first.

    >>> explainable_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()))
    ['0', '1']
    """
    return [
        name
        for name, module in model.named_modules()
        if name and [inner for inner in module.modules() if layer_kind(inner)] == [module]
    ]


def choose_layers(
    model: nn.Module,
    patterns: str | Iterable[str] = "auto",
    kind: str = "activations",
    *,
    example: Tensor | None = None,
    limit: int | None = None,
) -> list[str]:
    """Return the layers that match ``patterns``, in model order, each once.

    Args:
        model: the network.
        patterns: ``"auto"``, a path, a glob (``features.*``, ``*relu*``; ``*`` also matches dots),
            or a list of them. A full path may name any module, even a block. A glob chooses among
            the layers worth showing (for ``"filters"``: convolutions and dense layers).
        kind: purpose of the layers. ``auto`` means, for

            - ``"activations"``: every convolution (or dense layer on a map) with its
              normalisation, activation and pooling, if their maps are larger than 1×1;
            - ``"filters"``: every convolution and dense layer that returns maps or features;
            - ``"grad_cam"``: the one feature map that the classifier reads. It is the output of
              the last convolution (or dense layer on a map) before pooling or flattening, after
              its normalisation, its activation, the sum of its residual block or the concatenation
              of its branches.
        example: ``(1, C, H, W)`` image for one forward pass. ``auto`` needs it, and leaves out
            layers that are never called.
        limit: maximum number of layers from ``auto``. Whole stages are left out, evenly over the
            depth; the first and the last stage stay. If fewer than three whole stages fit, each is
            represented by its last layer before pooling, and a single one is the last stage.

    Returns:
        Names of the layers. The list is empty only for ``auto``, if the network has no such layer:
        for Grad-CAM, dense networks have none, and networks on tokens are not supported yet.

    Raises:
        UserError: if a pattern matches nothing; the message names the most similar layers.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    if patterns == "auto" or (not isinstance(patterns, str) and list(patterns) == ["auto"]):
        return _choose_automatically(model, kind, example, limit)
    patterns = [patterns] if isinstance(patterns, str) else [str(p) for p in patterns]
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    layers = explainable_layers(model)
    if kind == "filters":
        layers = [p for p in layers if layer_kind(model.get_submodule(p)) in ("conv", "dense")]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = [pattern] if pattern in paths else [p for p in layers if fnmatchcase(p, pattern)]
        if not matches:
            suggestion = nearest(pattern, layers)
            raise UserError(f"no layer of {type(model).__name__} matches {pattern!r}: {suggestion}")
        chosen.update(matches)
    return [path for path in paths if path in chosen]


def find_feature_map(model: nn.Module, example: Tensor) -> tuple[str | None, str]:
    """Return the layer whose map the classifier reads, or None and the reason why there is none.

    Of all convolutions and matrix products over more than one position, more than half must come
    before the map. In networks on tokens (ViT, Mixer) the last map is the patch embedding, which
    does not determine the prediction.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass.
    """
    calls, products = _trace(model, example)
    last = _find_last_map(calls)
    if last is None:
        return None, "the network has no feature map"
    if 2 * last.products <= products:
        return None, (
            f"the last feature map is that of {last.name!r}, and {products - last.products} of "
            f"{products} convolutions and matrix products come after it (networks on tokens, such "
            "as ViT, are not supported yet)"
        )
    return last.name, ""


def find_image_convolutions(model: nn.Module, example: Tensor) -> list[str]:
    """Return the convolutions that read the channels of the image, in the order of their calls.

    Their kernels can be drawn as small pictures. Kernels of deeper layers and 1×1 kernels cannot.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass.
    """
    return [
        call.name
        for call in _trace(model, example)[0]
        if call.reads_image
        and isinstance(call.module, nn.Conv2d)
        and max(call.module.kernel_size) > 1
    ]


@dataclass(frozen=True, eq=False)
class _Call:
    """One finished call of a module in a forward pass.

    Attributes:
        name: path of the module.
        module: the module.
        output: its output.
        version: version counter of the output at the end of the call.
        layout: layout of the output.
        products: number of products before the end of the call, which measures its depth.
        reads_image: whether the module's input holds the channels of the image.
    """

    name: str
    module: nn.Module
    output: Tensor
    version: int
    layout: Layout
    products: int
    reads_image: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the output's maps; None if it is not a map or has a single pixel."""
        order = self.layout.map_order
        if order is None:
            return None
        height, width = (self.output.shape[axis] for axis in order[2:])
        return (height, width) if max(height, width) > 1 else None


def _choose_automatically(
    model: nn.Module, kind: str, example: Tensor | None, limit: int | None
) -> list[str]:
    if example is None:
        raise ValueError("choose_layers needs an example image for auto")
    if kind == "grad_cam":
        layer, _ = find_feature_map(model, example)
        return [layer] if layer else []
    calls = {call.name: call for call in _trace(model, example)[0]}
    kinds = {name: layer_kind(model.get_submodule(name)) for name in explainable_layers(model)}
    # a stage extends from one convolution or dense layer to the next
    stages: list[list[str]] = []
    for name, layer in kinds.items():
        call = calls.get(name)
        if layer in ("conv", "dense"):
            is_suitable = call and (call.layout.order if kind == "filters" else call.size)
            stages.append([name] if is_suitable else [])
        elif kind == "activations" and call and call.size and stages and stages[-1]:
            has_pool = kinds[stages[-1][-1]] == "pool"  # a stage has at most one pooling
            stages[-1] += [] if has_pool and layer == "pool" else [name]
    stages = [stage for stage in stages if stage]
    if limit is None:
        return [name for stage in stages for name in stage]
    outputs = [[name for name in stage if kinds[name] != "pool"][-1] for stage in stages]
    return _thin_out(stages, outputs, limit)


def _thin_out(stages: list[list[str]], outputs: list[str], limit: int) -> list[str]:
    """Return the layers of as many stages as the limit allows, evenly spaced over the depth.

    Args:
        stages: the layers of each stage.
        outputs: the layer that represents each stage if fewer than three whole stages fit.
        limit: maximum number of layers.
    """
    total = len(stages)
    for count in range(total, min(_FEWEST_STAGES, total) - 1, -1):
        names = [name for stage in _spread(stages, count) for name in stage]
        if len(names) <= limit:
            return names
    return _spread(outputs, min(limit, total))


def _spread(items: list[T], count: int) -> list[T]:
    """Return ``count`` evenly spaced items, from the first to the last; one item is the last."""
    if count == 1:
        return items[-1:]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _trace(model: nn.Module, example: Tensor) -> tuple[list[_Call], int]:
    """Return all module calls with a tensor output in one pass, and its number of products.

    The calls are in the order in which they end. ``AxisTracker`` counts the products.
    """
    calls: list[_Call] = []
    image_readers: set[str] = set()

    def begin(name, args):
        if args and isinstance(args[0], Tensor) and tracker.is_image_input(args[0]):
            image_readers.add(name)

    def end(name, module, output):
        if isinstance(output, Tensor):
            layout, products = tracker.layout(output), tracker.products
            reads_image = name in image_readers
            calls.append(
                _Call(name, module, output, output._version, layout, products, reads_image)
            )

    with explaining(model), torch.no_grad(), ExitStack() as hooks:
        images = prepare_images(model, example[:1])
        tracker = AxisTracker(images)
        for name, module in model.named_modules():
            if not name:
                continue
            hook = module.register_forward_hook(lambda m, _, out, n=name: end(n, m, out))
            hooks.enter_context(hook)
            if isinstance(module, nn.Conv2d):
                hook = module.register_forward_pre_hook(lambda _, args, n=name: begin(n, args))
                hooks.enter_context(hook)
        with tracker:
            model(images)
    return calls, tracker.products


def _find_last_map(calls: list[_Call]) -> _Call | None:
    """Return the call that computed the last feature map, or None."""
    indices = [
        i
        for i, call in enumerate(calls)
        if call.size and layer_kind(call.module) in ("conv", "dense")
    ]
    if not indices:
        return None
    last = indices[-1]
    # From the last convolution on, maps keep their size until they are pooled. Calls in between
    # with another size (squeeze-and-excitation, windows, tokens) are skipped.
    same_size = [
        call
        for call in calls[last:]
        if call.size == calls[last].size and layer_kind(call.module) != "pool"
    ]
    # A block returns the tensor of its last layer: choose that layer. In-place layers (a ReLU
    # after a convolution, a residual sum) share the tensor object too, but not its version.
    final = same_size[-1]
    equal = [c for c in same_size if c.output is final.output and c.version == final.version]
    layers = [call for call in equal if layer_kind(call.module)]
    return (layers or equal)[0]
