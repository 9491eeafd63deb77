"""Which layers of a network are worth showing, and choosing among them by name.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.axes import AxisTracker, Layout
from convlens.explain.mode import explaining, prepare_images

KINDS = ("activations", "filters", "grad_cam")

_CLASSES = {
    "conv": nn.modules.conv._ConvNd,
    "norm": nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.LocalResponseNorm,
    "dense": nn.Linear,
}
_NOT_SHOWN = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def layer_kind(module: nn.Module) -> str | None:
    """``"conv"``, ``"norm"``, ``"activation"``, ``"pool"``, ``"dense"``, or None for the rest.

    Activations and poolings are known by where they are defined and by name, so that those of
    timm and torchvision count without importing either.

    >>> layer_kind(nn.ReLU()), layer_kind(nn.Conv2d(3, 8, 3)), layer_kind(nn.Flatten())
    ('activation', 'conv', None)
    """
    for name, classes in _CLASSES.items():
        if isinstance(module, classes):
            return name
    kind = type(module)
    home = kind.__module__.rpartition(".")[2]
    if home.startswith("activation") and not isinstance(module, _NOT_SHOWN):
        return "activation"
    return "pool" if "Pool" in kind.__name__ else None


def explainable_layers(model: nn.Module) -> list[str]:
    """Paths of the layers worth showing, in the order they are registered.

    Convolutions, normalisations, activations, poolings and dense layers, innermost modules only
    (timm's ``BatchNormAct2d`` counts as its activation). A module registered under two names
    appears under the first.

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
    """The layers ``patterns`` speak of, in model order, each once.

    Args:
        patterns: ``"auto"``, a path, a glob (``features.*``, ``*relu*``; ``*`` also crosses dots),
            or a list of them. A full path may name any module, also a block; a glob chooses among
            the layers worth showing (of ``"filters"``: convolutions and dense layers).
        kind: what they are for. ``auto`` means, for

            - ``"activations"``: of every convolution (or dense layer on a map), itself, its
              normalisation, its activation and its pooling, as far as they give maps larger than
              1×1;
            - ``"filters"``: every convolution and dense layer that gives maps or features;
            - ``"grad_cam"``: the one feature map the classifier looks at: what the last
              convolution (or dense layer on a map) became before pooling or flattening (after its
              normalisation, its activation, the sum of its residual block, the concatenation of its
              branches); see :func:`find_feature_map`.
        example: ``(1, C, H, W)`` picture for one forward pass, needed by ``auto``, which leaves
            out layers that are never called.
        limit: at most so many layers from ``auto``. Whole stages are left out, evenly over the
            depth; the first and the last stay.

    Returns:
        Layer names. Empty only from ``auto``, where the network has nothing of the kind: a dense
        network has no Grad-CAM, and one on tokens none yet.

    Raises:
        UserError: a pattern that matches nothing, with the nearest names.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    if patterns == "auto" or (not isinstance(patterns, str) and list(patterns) == ["auto"]):
        return _auto(model, kind, example, limit)
    patterns = [patterns] if isinstance(patterns, str) else [str(p) for p in patterns]
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    shown = explainable_layers(model)
    if kind == "filters":
        shown = [p for p in shown if layer_kind(model.get_submodule(p)) in ("conv", "dense")]
    chosen: set[str] = set()
    for pattern in patterns:
        found = [pattern] if pattern in paths else [p for p in shown if fnmatchcase(p, pattern)]
        if not found:
            raise UserError(
                f"no layer of {type(model).__name__} matches {pattern!r}: {nearest(pattern, shown)}"
            )
        chosen.update(found)
    return [path for path in paths if path in chosen]


def find_feature_map(model: nn.Module, example: Tensor) -> tuple[str | None, str]:
    """The layer whose map the classifier looks at; or None, and in a few words why there is none.

    It must carry most of the network: of all convolutions and matrix products over more than one
    place, more than half come before it. Of a network on tokens (ViT, Mixer) the last map is the
    patch embedding, and what that finds is not what the network answers by.

    Args:
        example: ``(1, C, H, W)`` picture for one forward pass.
    """
    calls, products = _trace(model, example)
    last = _last_feature_map(calls)
    if last is None:
        return None, "the network has no feature map"
    if 2 * last.products <= products:
        return None, (
            f"the last feature map is that of {last.name!r}, and {products - last.products} of the "
            f"network's {products} products come after it (networks on tokens, such as ViT, are "
            "not supported yet)"
        )
    return last.name, ""


def find_image_convolutions(model: nn.Module, example: Tensor) -> list[str]:
    """The convolutions that read the image's own channels, in the order in which they are called.

    Their kernels are small pictures themselves; those of deeper layers, and of 1×1, show nothing.

    Args:
        example: ``(1, C, H, W)`` picture for one forward pass.
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
    """One finished call of a module in a forward pass; ``products`` says how deep it lies."""

    name: str
    module: nn.Module
    output: Tensor
    version: int
    layout: Layout
    products: int
    reads_image: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its maps; None for anything else, and for maps of one pixel."""
        order = self.layout.map_order
        if order is None:
            return None
        height, width = (self.output.shape[axis] for axis in order[2:])
        return (height, width) if max(height, width) > 1 else None


def _auto(model: nn.Module, kind: str, example: Tensor | None, limit: int | None) -> list[str]:
    if example is None:
        raise ValueError("choose_layers needs an example picture for auto")
    if kind == "grad_cam":
        layer, _ = find_feature_map(model, example)
        return [layer] if layer else []
    calls = {call.name: call for call in _trace(model, example)[0]}
    kinds = {name: layer_kind(model.get_submodule(name)) for name in explainable_layers(model)}
    # a stage runs from a convolution or dense layer to the next
    stages: list[list[str]] = []
    for name, what in kinds.items():
        call = calls.get(name)
        if what in ("conv", "dense"):
            fits = call and (call.layout.order if kind == "filters" else call.size)
            stages.append([name] if fits else [])
        elif kind == "activations" and call and call.size and stages and stages[-1]:
            pooled = kinds[stages[-1][-1]] == "pool"  # one pooling at most belongs to a stage
            stages[-1] += [] if pooled and what == "pool" else [name]
    return _thinned([stage for stage in stages if stage], limit)


def _thinned(stages: list[list[str]], limit: int | None) -> list[str]:
    total = len(stages)
    for count in range(total, 0, -1):
        gaps = max(1, count - 1)
        kept = [stages[round(i * (total - 1) / gaps)] for i in range(count)]
        names = [name for stage in kept for name in stage]
        if limit is None or len(names) <= limit:
            return names
    return stages[0][:limit] if stages else []


def _trace(model: nn.Module, example: Tensor) -> tuple[list[_Call], int]:
    """Every call of every module whose output is a tensor, in the order in which they end; and the
    number of products (see :class:`AxisTracker`) of the whole pass."""
    calls: list[_Call] = []
    reading: set[str] = set()

    def begin(name, given):
        if given and isinstance(given[0], Tensor) and tracker.is_image_input(given[0]):
            reading.add(name)

    def end(name, module, output):
        if isinstance(output, Tensor):
            found = tracker.layout(output), tracker.products, name in reading
            calls.append(_Call(name, module, output, output._version, *found))

    with explaining(model), torch.no_grad(), ExitStack() as hooks:
        images = prepare_images(model, example[:1])
        tracker = AxisTracker(images)
        for name, module in model.named_modules():
            if not name:
                continue
            hook = module.register_forward_hook(lambda m, _, out, n=name: end(n, m, out))
            hooks.enter_context(hook)
            if isinstance(module, nn.Conv2d):
                hook = module.register_forward_pre_hook(lambda _, given, n=name: begin(n, given))
                hooks.enter_context(hook)
        with tracker:
            model(images)
    return calls, tracker.products


def _last_feature_map(calls: list[_Call]) -> _Call | None:
    makers = [
        i
        for i, call in enumerate(calls)
        if call.size and layer_kind(call.module) in ("conv", "dense")
    ]
    if not makers:
        return None
    last = makers[-1]
    # Its size outlives the last convolution until the maps are pooled; what lies between and has
    # another (squeeze-and-excitation, windows, tokens) is passed over.
    same = [
        call
        for call in calls[last:]
        if call.size == calls[last].size and layer_kind(call.module) != "pool"
    ]
    # A block hands on the tensor of its last layer: name that layer. In-place layers (conv, then
    # ReLU, or a residual sum) share one tensor object too; its version tells their values apart.
    final = same[-1]
    holders = [c for c in same if c.output is final.output and c.version == final.version]
    layers = [call for call in holders if layer_kind(call.module)]
    return (layers or holders)[0]
