"""Small networks with random but fixed weights, to test explanations."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet18

from convlens.explain.mode import explaining, prepare_images
from convlens.explain.receptive import Field
from convlens.explain.taps import record

Pixels = tuple[int, int]


def field(model: nn.Module, layer: str, example: torch.Tensor) -> tuple[Pixels | None, Pixels]:
    """Return the receptive field of a layer's units, ``(rows, columns)``, and its stride."""
    with explaining(model), torch.no_grad():
        example = prepare_images(model, example)
        with record(model, [layer], example=example) as taps:
            found = Field.measure(taps, layer, example)
    return found.size, found.stride


def seeded(build, seed: int = 0) -> nn.Module:
    """Build a network with its own seed and uneven batch statistics, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.2)
    return model.eval()


class ConvNet(nn.Module):
    """Two stages of convolution, batch normalisation, in-place ReLU and pooling, with a head."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(12 * 5 * 5, 16)
        self.relu3 = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(16, classes)

    def forward(self, x):
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))


class InPlaceNet(nn.Module):
    """Convolutions whose outputs an in-place ReLU overwrites."""

    def __init__(self, classes: int = 1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Branches(nn.Module):
    """Two concatenated branches: the last convolution sees only one of them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.mixed = Mixed()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.pool(self.mixed(self.stem(x))).flatten(1))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.left(x).relu(), self.right(x).relu()], 1)


class InPlaceSum(nn.Module):
    """A residual block that adds in place: its last layer's output becomes the sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5))
        self.body = Sum(self.block)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((-2, -1)))


class Sum(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x):
        result = self.block(x)
        result += x
        return result


def residual() -> nn.Module:
    return resnet18(num_classes=5)


def pictures(count: int = 3, size: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def plain_outputs(model: nn.Module, images: torch.Tensor, layers) -> dict[str, torch.Tensor]:
    """Return the last output of each layer, cloned by a plain hook."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, given, output, name=name: found.update({name: output.clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return {name: found[name] for name in layers}


def measured_cam(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    layer: str,
    place: tuple[int, int],
    step: float = 1e-7,
) -> torch.Tensor:
    """Measure signed Grad-CAM at one ``place`` of a layer's maps, ``(B,)``, by two passes.

    The sum over c of [mean over h, w of dy/dA_c] A_c(place) is the growth of the logit y per unit
    when a multiple of the values at ``place`` is added at every place of the layer, divided by the
    number of places. No gradient is computed. If the layer is called several times, its last call
    is changed.
    """
    module, (row, column) = model.get_submodule(layer), place
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    def logits(change: float) -> torch.Tensor:
        left = calls

        def move(_, given, output):
            nonlocal left
            left -= 1
            return None if left else output + change * output[:, :, row, column][:, :, None, None]

        handle = module.register_forward_hook(move)
        found = model(images)
        handle.remove()
        return found[range(len(images)), targets]

    handle = module.register_forward_hook(count)
    with torch.no_grad():
        model(images)
        handle.remove()
        rise = logits(step) - logits(-step)
    height, width = plain_outputs(model, images, [layer])[layer].shape[-2:]
    return rise / (2 * step * height * width)
