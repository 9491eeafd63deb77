"""Which layers of a network are worth showing, and choosing among them by name.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from convlens.errors import UserError, nearest
from convlens.explain.taps import explaining, ready

KINDS = ("activations", "filters", "grad_cam")

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
_NOT_SHOWN = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def layer_kind(module: nn.Module) -> str | None:
    """``"conv"``, ``"norm"``, ``"activation"``, ``"pool"``, ``"dense"``, or None for the rest.

    Activations and poolings are known by where they are defined and by name, so that those of
    timm and torchvision count without importing either.

    >>> layer_kind(nn.ReLU()), layer_kind(nn.Conv2d(3, 8, 3)), layer_kind(nn.Flatten())
    ('activation', 'conv', None)
    """
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, _NORMS):
        return "norm"
    if isinstance(module, nn.Linear):
        return "dense"
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

    def innermost(module: nn.Module) -> bool:
        return not any(layer_kind(child) for child in module.modules() if child is not module)

    return [
        name
        for name, module in model.named_modules()
        if name and layer_kind(module) and innermost(module)
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

            - ``"activations"``: of every convolution, itself, its normalisation, its activation
              and its pooling;
            - ``"filters"``: every convolution and dense layer;
            - ``"grad_cam"``: the one feature map the classifier looks at: what the last
              convolution became before pooling or flattening (after its normalisation, its
              activation, the sum of its residual block, the concatenation of its branches).
        example: ``(1, C, H, W)`` picture for one forward pass, needed by ``auto`` for
            ``"grad_cam"``. If given, ``auto`` also leaves out layers that are never called and, of
            ``"activations"``, those whose output is no map larger than 1×1.
        limit: at most so many layers from ``auto``. Whole stages are left out, evenly over the
            depth; the first and the last stay.

    Returns:
        Layer names. Empty only from ``auto``, where the network has nothing of the kind (a dense
        network has no Grad-CAM).

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


@dataclass(frozen=True, eq=False)
class _Call:
    """One finished call of a module in a forward pass."""

    name: str
    module: nn.Module
    output: Tensor
    version: int

    @property
    def is_map(self) -> bool:
        return self.output.dim() == 4 and max(self.output.shape[-2:]) > 1


def _auto(model: nn.Module, kind: str, example: Tensor | None, limit: int | None) -> list[str]:
    if kind == "grad_cam":
        if example is None:
            raise ValueError("choose_layers(kind='grad_cam') needs an example picture for auto")
        return _last_feature_map(_trace(model, example))
    calls = None if example is None else {call.name: call for call in _trace(model, example)}
    stages: list[list[str]] = []
    for name in explainable_layers(model):
        what = layer_kind(model.get_submodule(name))
        if kind == "filters":
            if what in ("conv", "dense") and (calls is None or name in calls):
                stages.append([name])
            continue
        # A stage runs from a convolution to the next; dense layers and what follows have no maps.
        if what in ("conv", "dense"):
            stages.append([])
        has_map = calls is None or (name in calls and calls[name].is_map)
        if has_map and (what == "conv" or _belongs(model, what, stages)):
            stages[-1].append(name)
    return _thinned([stage for stage in stages if stage], limit)


def _belongs(model: nn.Module, what: str, stages: list[list[str]]) -> bool:
    """Whether a layer of kind ``what`` goes with the last convolution: one pooling at most does."""
    if what == "dense" or not stages or not stages[-1]:
        return False
    return what != "pool" or layer_kind(model.get_submodule(stages[-1][-1])) != "pool"


def _thinned(stages: list[list[str]], limit: int | None) -> list[str]:
    total = len(stages)
    for count in range(total, 0, -1):
        gaps = max(1, count - 1)
        kept = [stages[round(i * (total - 1) / gaps)] for i in range(count)]
        names = [name for stage in kept for name in stage]
        if limit is None or len(names) <= limit:
            return names
    return stages[0][:limit] if stages else []


def _trace(model: nn.Module, example: Tensor) -> list[_Call]:
    """Every call of every module whose output is a tensor, in the order in which they end."""
    calls: list[_Call] = []

    def note(name, module, output):
        if isinstance(output, Tensor):
            calls.append(_Call(name, module, output, output._version))

    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: note(name, m, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with explaining(model), torch.no_grad():
            model(ready(model, example[:1]))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _last_feature_map(calls: list[_Call]) -> list[str]:
    convolutions = [
        i for i, call in enumerate(calls) if layer_kind(call.module) == "conv" and call.is_map
    ]
    if not convolutions:
        return []
    last = convolutions[-1]
    size = calls[last].output.shape[-2:]
    # Its size outlives the last convolution until the maps are pooled; what lies between and has
    # another shape (squeeze-and-excitation, layers on channels-last maps) is passed over.
    same = [
        call
        for call in calls[last:]
        if call.is_map and call.output.shape[-2:] == size and layer_kind(call.module) != "pool"
    ]
    # A block hands on the tensor of its last layer: name that layer. In-place layers (conv, then
    # ReLU, or a residual sum) share one tensor object too; its version tells their values apart.
    final = same[-1]
    holders = [c for c in same if c.output is final.output and c.version == final.version]
    layers = [call for call in holders if layer_kind(call.module)]
    return [(layers or holders)[0].name]
