"""What a network's outputs are: logits before a softmax, one row an image, or a refusal."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from torch import nn

import convlens
from convlens.core.errors import UserError
from convlens.explain import answering, attribute, faithfulness, grad_cam, occlusion
from convlens.explain.occlusion import compute_logits
from convlens.explain.outputs import output_rows
from support.explain_networks import pictures

NAMES = ["cat", "dog", "emu"]
IMAGES = pictures(4, 16)


def base(outputs: int = 3, gain: float = 8.0) -> nn.Sequential:
    """Logits large enough that a second softmax would be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(24, outputs),
        ).eval()  # fmt: skip
        network[-1].weight.data.mul_(gain)
    return network


class With(nn.Module):
    """``network`` and what is done to its logits."""

    def __init__(self, network: nn.Module, end):
        super().__init__()
        self.network = network
        if isinstance(end, nn.Module):
            self.end = end
        else:
            self.function = end

    def forward(self, x):
        logits = self.network(x)
        return self.end(logits) if hasattr(self, "end") else self.function(logits)


def wrapped(network, names=NAMES, **options):
    return convlens.wrap(network, names, size=16, **options)


def truth(network, image):
    """Captum's Grad-CAM and saliency of plain logits for the likeliest class."""
    target = int(network(image).argmax())
    cam = LayerGradCam(network, network[1]).attribute(image, target, relu_attributions=True)
    return target, cam[0].detach(), Saliency(network).attribute(image, target).sum(1)


ENDS = {
    "softmax": nn.Softmax(dim=1),
    "log_softmax": nn.LogSoftmax(dim=-1),
    "nested": nn.Sequential(nn.Identity(), nn.Sequential(nn.Dropout(0.5), nn.Softmax(1))),
    "cast": nn.Sequential(nn.Softmax(1), nn.Flatten()),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_final_softmax_module_gives_its_probabilities_and_the_maps_of_its_logits(end):
    plain = base()
    explainer = wrapped(With(copy.deepcopy(plain), ENDS[end]))
    image = IMAGES[:1]
    found = explainer.explain(image[0], only="grad_cam,saliency,occlusion")
    torch.testing.assert_close(found.probabilities, plain(image).softmax(1)[0].detach())
    target, cam, saliency = truth(plain, image)
    assert found.targets == (target,)
    torch.testing.assert_close(found.grad_cam["network.1"], cam, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.maps["saliency"], saliency, atol=1e-6, rtol=1e-5)
    theirs = wrapped(plain).explain(image[0], only="occlusion").maps["occlusion"]
    torch.testing.assert_close(found.maps["occlusion"], theirs)
    (line,) = [note for note in found.notes if "gradients are taken before it" in note]
    assert "oftmax" in line and line == explainer.note


def test_a_temperature_before_the_softmax_is_part_of_the_logits():
    plain = base()
    explainer = wrapped(With(copy.deepcopy(plain), nn.Sequential(Scale(), nn.Softmax(1))))
    wanted = (plain(IMAGES) / 4).softmax(1).detach()
    torch.testing.assert_close(explainer.probabilities(IMAGES), wanted)


class Scale(nn.Module):
    def forward(self, x):
        return x / 4


def test_a_sigmoid_of_one_output_is_the_probability_of_the_second_class():
    plain = base(1)
    explainer = wrapped(With(copy.deepcopy(plain), nn.Sigmoid()), ["no", "yes"])
    wanted = plain(IMAGES).sigmoid().detach()
    torch.testing.assert_close(explainer.probabilities(IMAGES), torch.cat([1 - wanted, wanted], 1))
    cam = LayerGradCam(plain, plain[1]).attribute(IMAGES[:1], 0, relu_attributions=True)
    found = explainer.explain(IMAGES[0], target="yes", only="grad_cam").grad_cam["network.1"]
    torch.testing.assert_close(found, cam[0].detach(), atol=1e-6, rtol=1e-5)


UNSAID = {
    "F.softmax": lambda z: F.softmax(z, dim=1),
    "F.log_softmax": lambda z: F.log_softmax(z, 1),
    "method": lambda z: z.softmax(-1),
    "shares": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
}


@pytest.mark.parametrize("how", UNSAID)
def test_probabilities_that_nobody_speaks_of_are_refused_with_the_key(how):
    network = With(base(), UNSAID[how])
    with pytest.raises(UserError, match="look like .*probabilities.*outputs=probabilities"):
        wrapped(network)
    with pytest.raises(UserError, match="outputs=probabilities"):
        grad_cam(network, IMAGES, torch.tensor([-1] * 4), ["network.1"])
    with pytest.raises(UserError, match="outputs=probabilities"):
        compute_logits(network, IMAGES)


def test_a_sigmoid_that_is_called_is_refused_too():
    with pytest.raises(UserError, match="a sigmoid computed them.*outputs=probabilities"):
        wrapped(With(base(1), torch.sigmoid), ["no", "yes"])


@pytest.mark.parametrize("how", UNSAID)
def test_said_probabilities_are_used_as_they_are(how):
    plain = base()
    network = With(copy.deepcopy(plain), UNSAID[how])
    explainer = wrapped(network, outputs="probabilities")
    wanted = plain(IMAGES).softmax(1).detach()
    torch.testing.assert_close(explainer.probabilities(IMAGES), wanted)
    found = explainer.explain(IMAGES[0], only="grad_cam,saliency")
    target, cam, saliency = truth(plain, IMAGES[:1])
    if how == "shares":
        saliency = Saliency(lambda x: network(x).log()).attribute(IMAGES[:1], target)
        torch.testing.assert_close(found.maps["saliency"], saliency.sum(1), atol=1e-6, rtol=1e-4)
        assert "gradients are those of their logarithms" in explainer.note
    else:  # before the softmax, as of a module
        torch.testing.assert_close(found.grad_cam["network.1"], cam, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.maps["saliency"], saliency, atol=1e-6, rtol=1e-5)
        assert "gradients are taken before it" in explainer.note
    # nothing stays behind: the network answers with probabilities again
    torch.testing.assert_close(network(IMAGES), UNSAID[how](plain(IMAGES)))


def test_said_probabilities_of_one_output():
    plain = base(1)
    explainer = wrapped(
        With(copy.deepcopy(plain), torch.sigmoid), ["no", "yes"], outputs="probabilities"
    )
    wanted = plain(IMAGES).sigmoid().detach()[:, 0]
    torch.testing.assert_close(explainer.probabilities(IMAGES)[:, 1], wanted)


def test_logits_that_only_look_like_probabilities_can_be_said():
    network = With(base(), UNSAID["shares"])
    explainer = wrapped(network, outputs="logits")
    torch.testing.assert_close(explainer.probabilities(IMAGES), network(IMAGES).softmax(1).detach())
    with pytest.raises(UserError, match="outputs=probabilities: the outputs are not"):
        wrapped(base(), outputs="probabilities")
    with pytest.raises(UserError, match="outputs=probability: did you mean probabilities"):
        wrapped(base(), outputs="probability")


@pytest.mark.parametrize("end", [nn.Sigmoid(), torch.sigmoid])
@pytest.mark.parametrize("outputs", ["auto", "probabilities"])
def test_a_sigmoid_a_class_is_refused(end, outputs):
    with pytest.raises(UserError, match="multi-label|are not"):
        wrapped(With(base(), end), outputs=outputs)


@pytest.mark.parametrize("dim", [0, -2])
def test_a_softmax_over_the_images_is_refused(dim):
    with pytest.raises(UserError, match=r"runs over axis .* not over the axis of the 3 outputs"):
        wrapped(With(base(), nn.Softmax(dim=dim)))


def test_softmaxes_and_sigmoids_inside_are_no_final_ones():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.share = nn.Sigmoid(), nn.Softmax(1)

        def forward(self, x):
            return x * self.gate(x) + self.share(x)

    network = With(base(), nn.Sequential(Gate(), nn.Linear(3, 3)))
    explainer = wrapped(network)
    assert explainer.note is None
    torch.testing.assert_close(explainer.probabilities(IMAGES), network(IMAGES).softmax(1).detach())


def test_explanations_called_directly_read_before_the_softmax_too():
    plain = base()
    network = With(copy.deepcopy(plain), nn.Softmax(1))
    targets = torch.tensor([-1, 0, 1, 2])
    ours, theirs = (
        grad_cam(net, IMAGES, targets, [layer])
        for net, layer in ((network, "network.1"), (plain, "1"))
    )
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.maps["network.1"], theirs.maps["1"])
    known = torch.tensor([0, 0, 1, 2])
    for method in ("integrated_gradients", "deep_lift", "lrp"):
        if method == "lrp":
            continue
        a = attribute(network, IMAGES, known, method).maps
        torch.testing.assert_close(a, attribute(plain, IMAGES, known, method).maps)
    maps = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1))
    drops = [
        faithfulness(net, IMAGES, maps, known, lambda _: maps).drop for net in (network, plain)
    ]
    torch.testing.assert_close(*drops)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_scripted_network_is_read_like_the_one_it_was_made_from():
    """Scripted modules take no hooks of their own."""
    plain = base()
    target = torch.tensor([1])
    how = {"window": 8, "stride": 8}
    theirs = occlusion(plain, IMAGES[:1], target, **how).maps
    torch.testing.assert_close(
        occlusion(torch.jit.script(plain), IMAGES[:1], target, **how).maps, theirs
    )
    squeezed = torch.jit.script(With(plain, nn.Unflatten(1, (1, 3))))
    with pytest.raises(UserError, match="the network returns"):
        occlusion(squeezed, IMAGES[:1], target, **how)
    # what is called inside is out of sight, its values are not
    with pytest.raises(UserError, match="outputs=probabilities"):
        occlusion(torch.jit.script(nn.Sequential(*plain, nn.Softmax(1))), IMAGES[:1], target, **how)
    before = plain(IMAGES[:1])
    torch.testing.assert_close(torch.jit.script(plain)(IMAGES[:1]), before)  # nothing stays


def test_an_exception_leaves_nothing_behind():
    network = With(base(), nn.Softmax(1))
    before = {name: dict(vars(m)) for name, m in network.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    with pytest.raises(RuntimeError), answering(network, "probabilities"):
        network(torch.zeros(1, 5, 16, 16))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    assert {name: set(vars(m)) for name, m in network.named_modules()} == {
        name: set(names) for name, names in before.items()
    }
    assert torch.overrides._get_current_function_mode_stack() == []


# ------------------------------------------------------------------------------------ shapes


class Squeezed(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).squeeze()


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_final_squeeze_does_not_make_one_image_two(outputs):
    plain = base(outputs, 1.0)
    explainer = wrapped(Squeezed(copy.deepcopy(plain)), ["no", "yes"])
    logits = plain(IMAGES).detach()
    wanted = (logits if outputs == 2 else torch.cat([0 * logits, logits], 1)).softmax(1)
    for count in (1, 2, 4):
        torch.testing.assert_close(explainer.probabilities(IMAGES[:count]), wanted[:count])
    found = explainer.explain(IMAGES[0], only="grad_cam,occlusion,saliency")
    torch.testing.assert_close(found.probabilities, wanted[0])
    maps = occlusion(explainer.network, IMAGES[:1], torch.tensor([1]), window=8, stride=8)
    theirs = occlusion(plain, IMAGES[:1], torch.tensor([1]), window=8, stride=8)
    torch.testing.assert_close(maps.maps, theirs.maps)


BAD = {
    "a map": (lambda z: z[:, :, None, None].expand(-1, -1, 4, 4), r"\(2, 3, 4, 4\) for 2 images"),
    "one row in all": (lambda z: z.flatten(), r"returns \(6,\) for 2 images"),
    "turned": (lambda z: z.T, r"returns \(3, 2\) for 2 images"),
    "a mean": (lambda z: z.mean(), r"returns \(\) for 2 images"),
    "a tuple": (lambda z: (z, z), "returns a tuple"),
    "a dictionary": (lambda z: {"logits": z}, "returns a dict"),
    "nothing": (lambda z: None, "returns a NoneType"),
}


@pytest.mark.parametrize("how", BAD)
def test_outputs_of_another_shape_are_refused_wherever_the_network_is_asked(how):
    end, said = BAD[how]
    network = With(base(), end)
    targets = torch.tensor([0, 1])
    for ask in (
        lambda: wrapped(network),
        lambda: grad_cam(network, IMAGES[:2], targets, ["network.1"]),
        lambda: occlusion(network, IMAGES[:2], targets, window=8, stride=8),
        lambda: attribute(network, IMAGES[:2], targets, "saliency"),
        lambda: faithfulness(network, IMAGES[:2], torch.rand(2, 4, 4), targets, torch.rand_like),
    ):
        with pytest.raises(UserError, match=said):
            ask()


def test_places_of_one_pixel_are_dropped_and_classes_are_counted():
    assert output_rows(torch.zeros(4, 3, 1, 1), 4).shape == (4, 3)
    assert output_rows(torch.zeros(4), 4, 2).shape == (4, 1)
    for output, count, classes in (
        (torch.zeros(4, 3), 4, 2), (torch.zeros(4), 4, 3), (torch.zeros(4, 0), 4, None),
    ):  # fmt: skip
        with pytest.raises(UserError, match="outputs per image, but there are"):
            output_rows(output, count, classes)


def test_names_fit_the_outputs_and_differ():
    with pytest.raises(UserError, match="3 classes, but 2 names were given"):
        wrapped(base(), ["cat", "dog"])
    with pytest.raises(UserError, match="2 classes, but 3 names were given"):
        wrapped(base(1), NAMES)
    with pytest.raises(UserError, match="'cat' is given several times"):
        wrapped(base(), ["cat", "dog", "cat"])
