"""Images in two dimensions: against eigenvectors, scikit-learn, scipy and known rotations."""

from __future__ import annotations

from math import cos, sin

import numpy as np
import pytest
import torch
from torch import nn

from convlens.explain.feature_space import Projection, align, fit_rotation, project
from convlens.explain.penultimate import find_classifier, read_features


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_turn(angle: float, mirrored: bool = False) -> torch.Tensor:
    turn = [[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]
    return torch.tensor(turn, dtype=torch.float64) * torch.tensor([1, -1 if mirrored else 1])


def stretch(count: int, width: int) -> torch.Tensor:
    """Features whose variance differs from direction to direction."""
    return draw(count, width) * torch.linspace(3, 0.5, width).double() @ draw(width, width, seed=1)


@pytest.mark.parametrize(("count", "width"), [(40, 7), (5, 30), (3, 2)])
def test_projection_equals_the_eigenvectors_of_the_covariance(count, width):
    features = stretch(count, width) + 100
    found = project(features)
    rows = (features - features.mean(0)).numpy()
    values, vectors = np.linalg.eigh(rows.T @ rows)
    for axis in range(2):
        vector = vectors[:, -1 - axis]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(found.points[:, axis], rows @ vector, atol=1e-9)
        assert float(found.shares[axis]) == pytest.approx(values[-1 - axis] / values.sum())
    assert found.points.dtype == torch.float64
    torch.testing.assert_close(found.points.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)


def test_projection_equals_scikit_learn():
    decomposition = pytest.importorskip(
        "sklearn.decomposition", reason="comes with the extra `proofs`"
    )
    features = stretch(30, 12)
    found, reference = project(features), decomposition.PCA(2).fit(features.numpy())
    expected = reference.transform(features.numpy())
    signs = np.sign((found.points.numpy() * expected).sum(0))
    np.testing.assert_allclose(found.points, expected * signs, atol=1e-9)
    np.testing.assert_allclose(found.shares, reference.explained_variance_ratio_, atol=1e-12)


def test_projection_of_what_has_no_two_dimensions():
    line = project(torch.tensor([[1.0], [2.0], [6.0]]))
    assert line.points.tolist() == [[-2, 0], [-1, 0], [3, 0]]
    assert line.shares.tolist() == [1, 0]
    for features in (torch.ones(1, 5), torch.ones(4, 5), torch.ones(3, 0), torch.ones(0, 5)):
        found = project(features)
        assert found.points.tolist() == [[0, 0]] * len(features)
        assert found.shares.isnan().all()
    with pytest.raises(ValueError, match="N, D"):
        project(torch.ones(2, 3, 4))


def test_images_whose_features_are_not_finite_are_left_out():
    features = stretch(9, 4)
    spoilt = torch.cat([features[:3], torch.full((1, 4), torch.nan).double(), features[3:]])
    spoilt[3, :2] = torch.inf
    found, expected = project(spoilt), project(features)
    assert found.points[3].isnan().all()
    kept = found.points[[0, 1, 2, *range(4, 10)]]
    torch.testing.assert_close(kept, expected.points)
    torch.testing.assert_close(found.shares, expected.shares)
    assert project(torch.full((3, 4), torch.nan)).points.isnan().all()
    # earlier points of an image that has none now, and none of one that has
    earlier = expected.points[[0, 1, 2, 2, *range(3, 9)]]
    turned = align(found, earlier).points
    torch.testing.assert_close(turned[4:], earlier[4:], atol=1e-12, rtol=0)
    torch.testing.assert_close(
        fit_rotation(expected.points[[0, 1, 2, 2]], found.points[:4]), torch.eye(2).double()
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0, -3.1])
def test_a_known_turn_is_undone(angle, mirrored):
    turn, first = make_turn(angle, mirrored), project(stretch(20, 5))
    # moved and enlarged ones, too: only the turn is undone, distances stay
    later = Projection(3 * first.points @ turn, first.total)
    back = align(later, first.points + torch.tensor([5.0, -2.0]))
    torch.testing.assert_close(back.points, 3 * first.points, atol=1e-12, rtol=1e-12)
    # with fewer images, and with more, than before
    torch.testing.assert_close(align(later, first.points[:9]).points, back.points)
    more = torch.cat([first.points, draw(5, 2)])
    torch.testing.assert_close(align(later, more).points, back.points)


def test_rotation_equals_scipy_and_beats_every_other():
    first, second = draw(15, 2), draw(15, 2, seed=2)
    first, second = first - first.mean(0), second - second.mean(0)
    found = fit_rotation(first, second)
    torch.testing.assert_close(found @ found.T, torch.eye(2).double(), atol=1e-12, rtol=0)

    def compute_error(turn: torch.Tensor) -> float:
        return float((first @ turn - second).square().sum())

    for angle in np.linspace(0, 2 * np.pi, 200):
        for mirrored in (False, True):
            assert compute_error(found) <= compute_error(make_turn(angle, mirrored)) + 1e-9
    linalg = pytest.importorskip("scipy.linalg", reason="comes with the extra `proofs`")
    for width in (2, 6):
        first, second = draw(15, width), draw(15, width, seed=2)
        expected, _ = linalg.orthogonal_procrustes(first - first.mean(0), second - second.mean(0))
        np.testing.assert_allclose(fit_rotation(first, second), expected, atol=1e-12)


def test_rotation_without_extent_is_none():
    points = draw(4, 2)
    for one, other in ((points[:1], points[:1]), (points, points * 0), (points[:0], points[:0])):
        assert torch.equal(fit_rotation(one, other), torch.eye(2).double())
    with pytest.raises(ValueError, match="N, D"):
        fit_rotation(points, points[:3])


class Net(nn.Module):
    """A network whose last step can be chosen."""

    def __init__(self, end):
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 5, 3), nn.Linear(5, 6)
        self.last, self.other = nn.Linear(6, 4), nn.Linear(6, 4)
        self.wide, self.end = nn.Conv2d(5, 4, 1), end

    def forward(self, images):
        maps = self.conv(images).relu()
        return self.end(self, maps, self.first(maps.mean((2, 3))).relu())


IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def also_computes(net, _, features):
    answer = net.last(features)
    net.other(features)  # an output that nobody reads
    return answer


FOUND = {
    "last": lambda net, _, features: net.last(features),
    "some of its outputs": lambda net, _, features: net.last(features)[:, [2, 0]],
    "another layer after it": also_computes,
}
REFUSED = {
    "alone": lambda net, _, features: net.last(features) + net.other(features),
    "alone, even if": lambda net, _, features: net.last(features) + 0 * features[:, :4],
    "more than once": lambda net, _, features: net.last(net.last(features).repeat(1, 2)[:, :6]),
    "reads maps": lambda net, maps, _: net.wide(maps).mean((2, 3)),
    "not finite": lambda net, _, features: net.last(features) / 0,
}


@pytest.mark.parametrize("case", FOUND)
def test_the_last_layer_is_found_and_what_it_reads(case):
    network = Net(FOUND[case])
    assert find_classifier(network, IMAGES) == ("last", "")
    features, logits = read_features(network, IMAGES, "last", batch=2)
    with torch.no_grad():
        expected = network.first(network.conv(IMAGES).relu().mean((2, 3))).relu()
        torch.testing.assert_close(features, expected)
        torch.testing.assert_close(logits, network(IMAGES))
    assert network.training and not features.requires_grad


def test_the_last_layer_is_found_below_probabilities():
    network = Net(lambda net, _, features: net.last(features).softmax(1))
    assert find_classifier(network, IMAGES) == ("last", "")


@pytest.mark.parametrize("reason", REFUSED)
def test_a_last_layer_that_is_not_known_is_refused(reason):
    layer, why = find_classifier(Net(REFUSED[reason]), IMAGES)
    assert layer is None
    assert reason.partition(",")[0] in why


def test_without_any_layer_nothing_is_found():
    assert find_classifier(nn.Flatten(), IMAGES)[0] is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [("test_resnet.r160_in1k", "fc"), ("test_vit.r160_in1k", "head"),
     ("test_byobnet.r160_in1k", "head.fc"), ("deit_tiny_distilled_patch16_224", None)],
)  # fmt: skip
def test_networks_of_timm(name, layer):
    timm = pytest.importorskip("timm")
    size = {"depth": 1} if "deit" in name else {}
    network = timm.create_model(name, num_classes=7, **size)
    images = torch.rand(1, *network.default_cfg["input_size"])
    assert find_classifier(network, images)[0] == layer
    if layer:
        features, logits = read_features(network, images, layer)
        network.eval()
        with torch.no_grad():
            expected = network.forward_head(network.forward_features(images), pre_logits=True)
            torch.testing.assert_close(features, expected)
            torch.testing.assert_close(network.get_submodule(layer)(features), logits)
