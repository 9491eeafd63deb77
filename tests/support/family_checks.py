"""What convlens says of a family's network, compared with timm, Captum, and plain definitions.

Each check is made on one small network with random weights in float64, in which nothing is zero
(``lively``). Errors are the largest difference, divided by the reference's largest value.

Legend: ``B`` images, ``C`` channels, ``h w`` grid of a map, ``N`` tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.explain import (
    activations,
    attention_maps,
    attention_rollout,
    attn_lrp,
    grad_cam,
    gradient_ascent,
    legrad,
    occlusion,
    relevance,
    token_occlusion,
)
from convlens.explain.attention import recording
from convlens.explain.layers import find_feature_map
from convlens.models import Classifier, build_layer_table, build_model
from convlens.models.catalogue import find_family
from convlens.models.timm_networks import create
from support.explicit_attention import Explicit, unfused
from support.families import MEMBERS, OWN
from support.timm_tiny import SPEC

CLASSES, TARGETS = 5, torch.tensor([1, 3])
WORST = 1e-9  # largest error that is accepted


@dataclass
class Row:
    """One network of the table.

    Attributes:
        name: timm's name.
        family: timm's module.
        size: pixels.
        stages: names of its stages.
        links: number of modules after which its features can be stored.
        cells: column -> reference that it was compared with, "partly: what is refused, and why" or
            "refused: why".
        error: largest of all errors.
    """

    name: str
    family: str
    size: int
    stages: tuple[str, ...] = ()
    links: int = 0
    cells: dict[str, str] = field(default_factory=dict)
    error: float = 0.0

    def summarise(self) -> dict:
        """The row as the file and the page hold it, the same on any machine.

        The error is a power of ten, at least ten times what was measured.
        """
        exponent = max(-14, math.ceil(math.log10(max(self.error, 1e-15))) + 1)
        return {
            "name": self.name, "family": self.family, "size": self.size,
            "stages": len(self.stages), "links": self.links, "cells": self.cells,
            "error": f"1e{exponent}" if self.stages else "",
        }  # fmt: skip

    def compare(self, ours: Tensor, theirs: Tensor, what: str, whole: Tensor | None = None) -> None:
        """Note the largest difference; it must be at most ``WORST``.

        Args:
            ours: what convlens computes.
            theirs: the reference.
            what: for the message.
            whole: the values whose largest is 1; by default those of the reference.
        """
        assert ours.shape == theirs.shape, f"{self.name}: {what}: {ours.shape} {theirs.shape}"
        theirs = theirs.detach()
        scale = float((theirs if whole is None else whole).detach().abs().max())
        assert 0 < scale < float("inf"), f"{self.name}: {what}: nothing to compare"
        error = float((ours.detach() - theirs).abs().max()) / scale
        assert error <= WORST, f"{self.name}: {what}: error {error}"
        self.error = max(self.error, error)


def lively(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with statistics, scales and heads as uneven as training leaves them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.7, 1.4)
        for key, value in model.named_parameters():
            if key.endswith("gamma"):
                value.data.uniform_(0.3, 0.6)
            elif not value.any():  # heads that start at zero
                value.data.normal_(0, 0.1)
    return model.double().eval()


def is_close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= WORST)


@dataclass(frozen=True)
class Axes:
    """Where the channels of a layer's output are, told by sizes and by timm alone."""

    kind: str  # "B C h w", "B h w C" or "B N C"
    grid: tuple[int, int]

    @classmethod
    def find(cls, output: Tensor, grid: tuple[int, int]) -> Axes:
        shape = tuple(output.shape)
        if len(shape) == 4:
            kinds = [
                kind
                for kind, axes in (("B C h w", shape[2:]), ("B h w C", shape[1:3]))
                if axes == grid
            ]
            assert len(kinds) == 1, f"{shape} {grid}"
            return cls(kinds[0], grid)
        assert len(shape) == 3 and shape[1] >= grid[0] * grid[1], f"{shape} {grid}"
        return cls("B N C", grid)

    def to_maps(self, output: Tensor) -> Tensor:
        if self.kind == "B C h w":
            return output
        if self.kind == "B h w C":
            return output.permute(0, 3, 1, 2)
        patches = output[:, -self.grid[0] * self.grid[1] :]
        return patches.transpose(1, 2).unflatten(2, self.grid)

    def put_back(self, output: Tensor, maps: Tensor) -> Tensor:
        if self.kind == "B C h w":
            return maps
        if self.kind == "B h w C":
            return maps.permute(0, 2, 3, 1)
        prefix = output[:, : output.shape[1] - self.grid[0] * self.grid[1]]
        return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], 1)

    def mean(self, output: Tensor) -> Tensor:
        """The mean ``(B, C)`` over all places, also on an image of another size."""
        if self.kind == "B C h w":
            return output.mean((2, 3))
        if self.kind == "B h w C":
            return output.mean((1, 2))
        return self.to_maps(output).mean((2, 3))


class ChannelsFirst(nn.Module):
    """A layer whose output passes through ``tap`` as maps ``(B, C, h, w)``, and back."""

    def __init__(self, layer: nn.Module, axes: Axes):
        super().__init__()
        self.layer, self.axes, self.tap = layer, axes, nn.Identity()

    def forward(self, *given, **named):
        output = self.layer(*given, **named)
        return self.axes.put_back(output, self.tap(self.axes.to_maps(output)))


class Checks:
    """The checks of one network, in the order of the table's columns."""

    def __init__(self, name: str):
        self.name = name
        self.size, self.options = MEMBERS[name]
        self.spec = SPEC.replace(name=name, options=self.options)
        if name in OWN:
            self.spec = compose([f"model={name}", "model.weights=none"]).model
        self.row = Row(name, find_family(name) or "convlens", self.size)
        generator = torch.Generator().manual_seed(1)
        shape = (2, 3, self.size, self.size)
        self.images = torch.rand(shape, generator=generator, dtype=torch.float64)

    def run(self) -> Row:
        """Make every check; what convlens refuses is noted with its reason."""
        cells = self.row.cells
        try:
            self.model: Classifier = lively(
                lambda: build_model(
                    self.spec, channels=3, size=self.size, outputs=CLASSES, pretrained=False
                )
            )  # fmt: skip
        except UserError as error:
            assert "neither one map nor one sequence" in str(error), f"{self.name}: {error}"
            cells |= dict.fromkeys(COLUMNS, f"refused: {error}")
            return self.row
        self.row.stages = self.model.backbone.stage_names
        self.row.links = len(self.model.backbone.link_names)
        for column, check in COLUMNS.items():
            try:
                cells[column] = check(self)
            except UserError as error:
                assert len(str(error)) <= 160 and "\n" not in str(error)
                cells[column] = f"refused: {error}"
        return self.row

    # --- training

    def train(self) -> str:
        """Train the last stage and the head, then everything: what is frozen keeps its bits."""
        model = copy.deepcopy(self.model).train()
        backbone = model.backbone
        stages = [backbone.find_stage(name) for name, _ in backbone.named_parameters()]
        assert set(stages) <= set(range(len(backbone.stage_names)))
        last = {
            f"backbone.{name}"
            for (name, _), stage in zip(backbone.named_parameters(), stages, strict=True)
            if stage == max(stages)
        }
        for is_trained in (lambda key: key in last or key.startswith("head."), lambda key: True):
            before = {key: value.detach().clone() for key, value in model.named_parameters()}
            for key, value in model.named_parameters():
                value.requires_grad_(is_trained(key))
                value.grad = None
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
            nn.functional.cross_entropy(model(self.images), TARGETS).backward()
            optimizer.step()
            changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
            assert all(is_trained(key) for key in changed)
            assert any(key.startswith("head.") for key in changed)
            assert changed & last
            first = {
                f"backbone.{n}"
                for (n, _), s in zip(backbone.named_parameters(), stages, strict=True)
                if s == min(stages)
            }
        assert changed & first  # the gradient reaches the first stage
        return "plain steps"

    def store(self) -> str:
        """The features are timm's; what is stored after any link gives the same logits."""
        rows = build_layer_table(self.model, channels=3, size=self.size)
        assert sum(row.parameters for row in rows) == sum(
            p.numel() for p in self.model.parameters()
        )
        with torch.no_grad():
            normalised = self.model.normalise(self.images)
            backbone = self.model.backbone
            if self.name not in OWN:
                ours = backbone.run(normalised, 0, self.row.links - hasattr(backbone, "pool"))
                theirs = self.timm_network.forward_features(normalised)
                self.row.compare(ours, theirs, "features")
            logits = self.model(self.images)
            links = len(self.model.backbone.link_names)
            for cut in {1, (links + 1) // 2, links}:
                stored = self.model.features(self.images, cut)
                found = self.model.from_features(stored, cut)
                self.row.compare(found, logits, f"features after {cut} links")
        return "the whole network"

    # --- layers

    @cached_property
    def timm_network(self) -> nn.Module:
        """timm's own network with the same weights, which takes normalised images."""
        network = create(self.name, 0, size=self.size, options=self.options).double().eval()
        own = network.state_dict()
        state = {}
        for key, value in self.model.backbone.state_dict().items():
            if key not in own:
                key = key.partition(".")[2]
            state[key] = value
        assert not network.load_state_dict(state, strict=False).unexpected_keys
        return network

    @cached_property
    def timm_maps(self) -> dict[str, Tensor]:
        """Layer of the classifier -> timm's own map ``(B, C, h, w)``; empty if timm has none."""
        if self.name in OWN or not hasattr(self.timm_network, "forward_intermediates"):
            return {}
        network = self.timm_network
        with torch.no_grad(), unfused(network):
            maps = network.forward_intermediates(
                self.model.normalise(self.images), intermediates_only=True, output_fmt="NCHW"
            )
        names = [info["module"] for info in network.feature_info][-len(maps) :]
        modules = dict(self.model.named_modules())
        found = {}
        for name, each in zip(names, maps, strict=True):
            paths = [f"backbone.{way}{name}" for way in ("", "network.", "embed.")]
            path = next((path for path in paths if path in modules), None)
            if path is None:
                return {}
            found[path] = each
        return found

    @cached_property
    def feature_map(self) -> str:
        """The layer on which Grad-CAM is computed by default."""
        layer, reason = find_feature_map(self.model, self.images[:1])
        if layer is None:
            raise UserError(reason)
        return layer

    def hooked(self, layer: str, images: Tensor) -> Tensor:
        """The output of a layer's last call, by a plain hook; later layers may fail."""
        found: list[Tensor] = []
        handle = self.model.get_submodule(layer).register_forward_hook(
            lambda _, given, output: found.append(output.clone())
        )
        try:
            with torch.no_grad(), unfused(self.model):
                self.model(images)
        except RuntimeError:  # on a canvas too small for them
            assert images.shape[-2:] != self.images.shape[-2:]
        finally:
            handle.remove()
        return found[-1]

    @cached_property
    def axes(self) -> Axes:
        """The axes of the default layer's output."""
        output = self.hooked(self.feature_map, self.images)
        if output.dim() == 4 and output.shape[2] == output.shape[3] != output.shape[1]:
            grid = output.shape[2:]
        elif output.dim() == 4:
            grid = output.shape[1:3]
        else:
            grid = (int(output.shape[1] ** 0.5),) * 2  # a square, with fewer tokens before it
        return Axes.find(output, tuple(grid))

    def show_activations(self) -> str:
        layers = list(self.timm_maps)
        if layers:
            ours = activations(self.model, self.images, layers).layers
            for layer in layers:
                self.row.compare(ours[layer], self.timm_maps[layer], f"activations of {layer}")
            return "timm"
        layer = self.feature_map
        ours = activations(self.model, self.images, [layer]).layers[layer]
        theirs = self.axes.to_maps(self.hooked(layer, self.images))
        self.row.compare(ours, theirs, f"activations of {layer}")
        return "hook, one layer"

    def show_grad_cam(self) -> str:
        layer = self.feature_map
        ours = grad_cam(self.model, self.images, TARGETS, [layer], relu=False).maps[layer]
        model = copy.deepcopy(self.model)
        parent, _, child = layer.rpartition(".")
        tapped = ChannelsFirst(model.get_submodule(layer), self.axes)
        setattr(model.get_submodule(parent), child, tapped)
        theirs = LayerGradCam(model, tapped.tap).attribute(self.images, TARGETS)
        self.row.compare(ours, theirs, f"Grad-CAM at {layer}")
        return "Captum"

    def show_filters(self) -> str:
        layer = self.feature_map
        # the most active units: behind a ReLU, those that are off have no gradient
        units = self.axes.mean(self.hooked(layer, self.images)).mean(0).topk(2).indices.tolist()
        found = gradient_ascent(
            self.model, layer, units, size=self.size, channels=3, steps=2, step_size=0.05, seed=0
        )
        values = self.axes.mean(self.hooked(layer, found.images))
        self.row.compare(found.activations, values[[0, 1], units], f"filters of {layer}")
        return "hook"

    # --- evidence

    def occlude(self) -> str:
        window = self.size // 2
        ours = occlusion(self.model, self.images, TARGETS, window=window, stride=window).maps
        theirs = torch.zeros_like(ours)
        with torch.no_grad():
            logits = self.model(self.images)
            for top in (0, window):
                for left in (0, window):
                    place = (slice(None), slice(top, top + window), slice(left, left + window))
                    covered = self.images.clone()
                    covered[:, *place] = 0
                    falls = (logits - self.model(covered))[range(2), TARGETS]
                    theirs[place] = falls[:, None, None]
        self.row.compare(ours, theirs, "occlusion", logits)  # falls are differences of logits
        return "definition"

    @cached_property
    def explicit(self) -> Explicit:
        return Explicit(self.model, self.images)

    def show_attention(self) -> str:
        found = attention_maps(self.model, self.images)
        with recording(self.model) as recorder:
            recorded = recorder.run(self.images).attentions
        softmaxes, pairs = iter(self.explicit.weights), []
        for each in recorded:
            # in the order of the pass; those that are not multiplied with values are left out
            ours = each.source.flatten(0, -3)
            weights = next(other for other in softmaxes if is_close(ours, other.flatten(0, -3)))
            self.row.compare(ours, weights.flatten(0, -3), each.layer)
            pairs.append((each, weights))
        square = [weights for each, weights in pairs if each.is_square]
        rows = self.explicit.read_rows(square[-1]) if square else None
        for each, own in pairs:
            weights = own.reshape(each.weights.shape)
            tokens = each.places.keys
            if tokens is None:
                continue
            mean = weights.mean(-2)
            if rows is not None and len(rows) == weights.shape[-2]:
                mean = (rows[:, None] * weights).sum(-2)
            patches = mean[..., tokens.prefix : tokens.prefix + tokens.height * tokens.width]
            maps = patches.unflatten(-1, (tokens.height, tokens.width))
            self.row.compare(found.maps[each.layer], maps, each.layer)
        if found.refused:
            layer, reason = next(iter(found.refused.items()))
            return f"partly: {layer!r} {reason}"
        return "definition"

    def roll_out(self) -> str:
        self.row.compare(
            attention_rollout(self.model, self.images), self.explicit.roll_out(), "rollout"
        )
        return "definition"

    def show_relevance(self) -> str:
        ours = relevance(self.model, self.images, TARGETS).maps[:, 0]
        self.row.compare(ours, self.explicit.propagate(TARGETS), "relevance")
        return "definition"

    def show_legrad(self) -> str:
        ours = legrad(self.model, self.images, TARGETS).maps[:, 0]
        self.row.compare(ours, self.explicit.legrad(TARGETS), "LeGrad")
        return "definition"

    def leave_out(self) -> str:
        ours = token_occlusion(self.model, self.images, TARGETS, window=1, stride=1).maps
        theirs = self.explicit.leave_out(TARGETS)
        self.row.compare(ours, theirs, "token occlusion", self.explicit.logits)
        return "definition"

    def show_attn_lrp(self) -> str:
        attn_lrp(self.model, self.images, TARGETS)
        raise AssertionError("what supports a network of timm has a reference here")


COLUMNS: dict[str, Callable[[Checks], str]] = {
    "trains": Checks.train,
    "stored features": Checks.store,
    "activations": Checks.show_activations,
    "Grad-CAM": Checks.show_grad_cam,
    "filters": Checks.show_filters,
    "occlusion": Checks.occlude,
    "attention": Checks.show_attention,
    "rollout": Checks.roll_out,
    "relevance": Checks.show_relevance,
    "LeGrad": Checks.show_legrad,
    "token occlusion": Checks.leave_out,
    "AttnLRP": Checks.show_attn_lrp,
}
