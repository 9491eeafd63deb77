"""The networks of timm: their names, constructors, options and input sizes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache
from types import ModuleType
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from convlens.core.command_lines import command_line
from convlens.core.errors import UserError, nearest
from convlens.models.backbone import find_minimum_size, too_small_error
from convlens.models.timm_features import FAILURES
from convlens.models.timm_parts import Division, divide

STEP = 32  # pixels between the sizes that are tried for a network without patches
TRIES = 8  # sizes that are tried below and above another
# arguments of constructors that other keys of the config determine
RESERVED = {"self", "num_classes", "in_chans", "cfg", "device", "dtype", "kwargs"}


def _import_timm() -> ModuleType:
    """Import timm, which takes a second, and make it know our own network."""
    import timm

    from convlens.models import stem_vit  # noqa: F401

    return timm


@cache
def list_names() -> list[str]:
    """List timm's model names, without the tags of their weights."""
    return _import_timm().list_models()


@cache
def _read_old_names() -> dict[str, str | None]:
    """Return timm's former names with the current ones; None for removed networks."""
    return _import_timm().models.get_deprecated_models()


def check_name(name: str) -> None:
    """Check that timm has a network.

    Raises:
        UserError: it does not, or only under a new name; the error suggests similar names, or the
            new one.
    """
    timm, former = _import_timm(), _read_old_names()
    if (old := name.partition(".")[0]) in former:
        new = former[old]
        way_out = f"use model.name={new}" if new else f"it was removed; {suggest_names(old)}"
        raise UserError(f"model.name={name} is an old name of timm: {way_out}")
    if not timm.is_model(name):
        raise UserError(
            f"model.name={name}: neither scratch, vgg16 nor a network of timm; "
            f"{suggest_names(name)}"
        )


def suggest_names(name: str) -> str:
    """Return the names of networks most similar to one, or how to search for others."""
    # the whole list would be far longer than a line
    search = command_line("models", search="TEXT")
    return nearest(name.lower(), ["scratch", *list_names()], otherwise=f"`{search}` lists them")


def create(
    name: str, classes: int, *, size: int | None = None, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build timm's network with random weights.

    Args:
        name: timm's name, with or without the tag of its weights (``resnet18.a1_in1k``).
        classes: 0 for no classifier.
        size: image edge in pixels, for networks that are built for one size; None for timm's own.
        options: further arguments of timm's constructor, ``model.options``.

    Raises:
        UserError: timm has no such network or option, or cannot build it.
    """
    check_name(name)
    options = dict(options or {})
    if options:
        _check_options(name, options)
    try:
        return _construct(name, classes, size, options)
    except FAILURES as error:
        if fixed := next((key for key in options if f"'{key}'" in str(error)), None):
            raise UserError(
                f"model.options: {name} is defined by its own {fixed}; choose another network"
            ) from error
        if size is not None and _is_buildable(name, options):
            raise _size_error(name, size, options) from error
        raise UserError(
            f"model.name={name}: timm cannot build it ({_first_line(error)})"
        ) from error


def _construct(name: str, classes: int, size: int | None, options: dict[str, Any]) -> nn.Module:
    timm, options = _import_timm(), complete_options(name, size, options)
    return timm.create_model(name, pretrained=False, num_classes=classes, **options)


def complete_options(name: str, size: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of timm's constructor with the size of images, if it has such an option."""
    # timm: "if fixed_input_size exists and is True, model takes an img_size arg"
    is_fixed = read_timm_config(name).get("fixed_input_size")
    if size is not None and is_fixed and not options.keys() & {"img_size", "dynamic_img_size"}:
        return {**options, "img_size": size}
    return dict(options)


def _is_buildable(name: str, options: dict[str, Any]) -> bool:
    """Return whether timm builds the network for the size of its own."""
    try:
        with torch.device("meta"):
            _construct(name, 0, None, options)
    except FAILURES:
        return False
    return True


def read_timm_config(name: str) -> dict:
    """Return timm's pretrained configuration, such as ``mean``, ``std`` and ``classifier``.

    Raises:
        UserError: timm has no such network, or no such weights of it.
    """
    check_name(name)
    timm, network = _import_timm(), name.partition(".")[0]
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True).to_dict()
    except RuntimeError as error:  # timm's, for an unknown tag
        known = [network, *timm.list_pretrained(f"{network}.*")]
        raise UserError(
            f"model.name={name}: timm has no such weights; {nearest(name, known)}"
        ) from error


def build_parts(
    name: str, classes: int, size: int, options: Mapping[str, Any] | None
) -> tuple[nn.Module, Division]:
    """Build a network for images of a size, and divide it into backbone and classifier.

    Args:
        name: timm's name.
        classes: 0 for no classifier.
        size: image edge in pixels.
        options: ``model.options``.

    Returns:
        timm's network, and its parts, which share its modules.

    Raises:
        UserError: it is no image classifier, or does not accept images of this size; the error
            states the nearest sizes that it accepts.
    """
    network = create(name, classes, size=size, options=options)
    if not classes and _lacks_more_than_classifier(network, name):
        network = create(name, 1, size=size, options=options)
    for method in ("forward_features", "forward_head"):
        if not hasattr(network, method):
            raise UserError(
                f"model.name={name}: no image classifier, it has no {method}; choose another, such "
                f"as vit_small_patch16_224 or convnext_tiny"
            )
    if not _covers(network, size):
        raise _size_error(name, size, dict(options or {}))
    try:
        division = divide(network, name, size)
    except FAILURES as error:
        if isinstance(error, UserError):
            raise
        raise _size_error(name, size, dict(options or {}), network, error) from error
    if min(division.shape) < 1:
        raise _size_error(name, size, dict(options or {}), network)
    division.backbone.settings = f"{name} {sorted((options or {}).items())}"
    division.backbone.undecayed = _list_undecayed(network, division.backbone)
    return network, division


def _list_undecayed(network: nn.Module, backbone: nn.Module) -> tuple[str, ...]:
    """List the parameters of a backbone that its network leaves out of weight decay."""
    patterns = getattr(network, "no_weight_decay", tuple)()
    spared = {
        id(parameter)
        for name, parameter in network.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return tuple(name for name, value in backbone.named_parameters() if id(value) in spared)


def _lacks_more_than_classifier(network: nn.Module, name: str) -> bool:
    """Return whether timm left out more than its last layer, such as the norm before it."""
    top = read_timm_config(name).get("classifier") or ()
    return any(
        isinstance(getattr(network, path.partition(".")[0], None), nn.Identity)
        for path in ((top,) if isinstance(top, str) else top)
        if "." in path
    )


def convert_weights(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert tensors of a weights file to a network, with timm's function for its family.

    It resamples position embeddings for another image size, and knows the names in the files of
    the original authors.

    Args:
        network: timm's network.
        state: tensors by name.
    """
    modules = [sys.modules[kind.__module__] for kind in type(network).__mro__]  # ours: its base's
    names = ("checkpoint_filter_fn", "_filter_fn")
    found = (getattr(module, name, None) for module in modules for name in names)
    convert = next(filter(None, found), None)
    return convert(state, network) if convert else state


# --- options


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Raise a UserError if the constructor has no such argument."""
    known = list_options(name)
    for key in options:
        if key not in known:
            raise UserError(f"model.options: {name} has no option {key}; {nearest(key, known)}")


@cache
def list_options(name: str) -> list[str]:
    """List the arguments of a network's constructor, as ``model.options`` may set them."""
    with torch.device("meta"):
        kind = type(_construct(name, 0, None, {}))
    known: dict[str, None] = {}
    for base in kind.__mro__:
        if base is nn.Module:
            break
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        known |= dict.fromkeys(parameters)
        if "cfg" in parameters:  # the fields of such a table may be given as arguments
            hint = get_type_hints(base.__init__).get("cfg")
            for table in (hint, *get_args(hint)):  # a class, or one that may be None
                known |= {f.name: None for f in fields(table)} if is_dataclass(table) else {}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return sorted(known.keys() - RESERVED)


# --- sizes


def _covers(network: nn.Module, size: int) -> bool:
    """Return whether the patches of a network cover images of a size without a remainder."""
    patch = _find_patch(network)
    return patch is None or size % patch == 0


def _find_patch(network: nn.Module) -> int | None:
    """Return the larger edge in pixels of the patches that a network cuts images into."""
    from timm.layers import PatchEmbed

    patches = (each for each in network.modules() if isinstance(each, PatchEmbed))
    return next((max(each.patch_size) for each in patches), None)


def _size_error(
    name: str, size: int, options: dict[str, Any], network: nn.Module | None = None,
    cause: Exception | None = None,
) -> UserError:  # fmt: skip
    """Return the error for images of a size that a network does not accept."""
    if network is not None and not read_timm_config(name).get("fixed_input_size"):

        def features(edge: int) -> object:
            with torch.no_grad():
                result = network.eval().forward_features(torch.zeros(1, 3, edge, edge))
            if min(result.shape) < 1:
                raise ValueError
            return result

        least = find_minimum_size(features, size)
        if least is not None:
            return too_small_error(name, size, least)
    elif sizes := _find_sizes(name, size, options):
        return UserError(
            f"data.size={size}: {name} cannot be built for it; it can for "
            f"{' and '.join(map(str, sizes))}"
        )
    reason = f" ({_first_line(cause)})" if cause else ""
    return UserError(f"model.name={name} does not accept images of {size} pixels{reason}"[:160])


def _find_sizes(name: str, size: int, options: dict[str, Any]) -> list[int]:
    """Return sizes near another that a network can be built for, or else that of its weights.

    Nothing is computed: the networks have shapes, but no numbers.
    """

    def accepts(edge: int) -> bool:
        try:
            with torch.device("meta"), torch.no_grad():
                network = _construct(name, 0, edge, options).eval()
                features = network.forward_features(torch.zeros(1, 3, edge, edge))
                return _covers(network, edge) and min(features.shape) > 0
        except FAILURES:
            return False

    with torch.device("meta"):
        step = _find_patch(_construct(name, 0, None, options)) or STEP
    below = range(size - 1 - (size - 1) % step, 0, -step)[:TRIES]
    above = range(size + step - size % step, size + (TRIES + 1) * step, step)[:TRIES]
    found = [next(filter(accepts, edges), None) for edges in (below, above)]
    near = [edge for edge in found if edge is not None]
    own = read_timm_config(name)["input_size"][-1]
    return near or ([own] if own != size and accepts(own) else [])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:70]
