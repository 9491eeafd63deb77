"""What the maps of each method are: a title, the unit, and one sentence on how to read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What the maps of a method are.

    Attributes:
        title: name of the method in a list.
        reading: one sentence on how to read the maps.
        unit: of their values; may be empty.
        signed: whether they speak for and against a class.
    """

    title: str
    reading: str
    unit: str = ""
    signed: bool = False


METHODS = {
    "grad_cam": Method(
        "Grad-CAM",
        "The brighter a part, the more the layer finds there for the class.",
        "logit",
    ),
    "occlusion": Method(
        "Occlusion",
        "Red: covering this part lowers the logit of the class, so the part speaks for it. Blue: "
        "it speaks against the class.",
        "logit", signed=True,
    ),
    "integrated_gradients": Method(
        "Integrated gradients",
        "Red pixels raise the logit of the class compared with a baseline image; blue ones lower "
        "it.",
        "logit", signed=True,
    ),
    "superpixels": Method(
        "Superpixels",
        "Each region of similar pixels has one value: how much it adds to the logit of the class "
        "(red) or takes from it (blue).",
        "logit", signed=True,
    ),
}  # fmt: skip


def describe_method(name: str) -> Method:
    """Return what the maps of a method are; a method of another library has only its name."""
    return METHODS.get(name, Method(name.replace("_", " "), ""))
