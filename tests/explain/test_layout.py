"""A network that flattens with ``view`` takes no other memory layout than the one it knows."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from convlens import wrap
from convlens.experiment.predict import predict_files
from convlens.explain import (
    activations,
    attribute,
    faithfulness,
    grad_cam,
    gradient_ascent,
    insertion_deletion,
    occlusion,
    search_patches,
    superpixel_ablation,
    superpixels,
)
from support.explain_networks import seeded


class LeNet(nn.Module):
    """The tutorials' LeNet: its maps are flattened with ``view``."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv2(self.pool(torch.relu(self.conv1(x))))))
        return self.fc2(torch.relu(self.fc1(x.view(x.size(0), -1))))


class Dense(nn.Module):
    """The picture itself is flattened with ``view``."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 4)

    def forward(self, x):
        return self.fc(x.view(len(x), -1))


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 3])
SEGMENTS = superpixels(IMAGES, 9)
ASCENT = dict(size=32, channels=3, steps=2, step_size=0.05, seed=0)
METHODS = ["integrated_gradients", "occlusion", "feature_ablation", "gradient_shap", "saliency"]
CALLS = {
    "occlusion": lambda m, x: occlusion(m, x, TARGETS, window=8, stride=8).maps,
    "superpixels": lambda m, x: superpixel_ablation(m, x, TARGETS, SEGMENTS).maps,
    "faithfulness": lambda m, x: faithfulness(m, x, x.mean(1), TARGETS, lambda kept: kept.mean(1)),
    "insertion": lambda m, x: insertion_deletion(m, x, x.mean(1), TARGETS, 4).deletion,
    **{
        method: lambda m, x, method=method: attribute(m, x, TARGETS, method).maps
        for method in METHODS
    },
}
OF_LAYERS = {
    "activations": lambda m, x: activations(m, x, ["conv2"]).layers["conv2"],
    "grad_cam": lambda m, x: grad_cam(m, x, TARGETS, ["conv2"]).maps["conv2"],
    "filters": lambda m, x: gradient_ascent(m, "conv2", [0, 1], **ASCENT).images,
    "units": lambda m, x: gradient_ascent(m, "fc2", [0], **ASCENT, jitter=2, zoom=0.1).images,
    "patches": lambda m, x: search_patches(m, {"conv2": [0]}, [x])["conv2"].patches,
}


@pytest.mark.parametrize("call", [*CALLS, *OF_LAYERS])
def test_a_network_that_flattens_with_view_is_explained(call):
    look = {**CALLS, **OF_LAYERS}[call]
    look(seeded(LeNet), IMAGES)


@pytest.mark.parametrize("call", CALLS)
def test_a_network_that_flattens_the_picture_itself_with_view_is_explained(call):
    CALLS[call](seeded(Dense), IMAGES)


@pytest.mark.parametrize("build", [LeNet, Dense])
def test_wrapped_it_answers_as_it_does_alone(build, tmp_path):
    model = seeded(build)
    asked = wrap(model, list("abcd"), size=32)
    picture = IMAGES[0].permute(1, 2, 0).mul(255).byte().numpy()  # as decoded: channels last
    found = asked.explain(picture)
    with torch.no_grad():
        expected = model(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255).softmax(1)[0]
    torch.testing.assert_close(found.probabilities, expected)
    assert {"occlusion", "superpixels", "integrated_gradients"} <= set(found.panels)
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    assert not predict_files(asked, [file, file], tmp_path / "table.csv").refused
