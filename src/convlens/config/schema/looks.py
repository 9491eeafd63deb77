"""The config groups ``callbacks``, ``probes``, ``looking`` and ``alarms``: what looks, and when."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from convlens.config.schema.keys import (
    NULL,
    SHARE,
    SWITCH,
    TABLE,
    TARGET,
    TEXT,
    Own,
    Rule,
    Slice,
    above,
    each,
    key,
    least,
    one_of,
    whole,
)
from convlens.core.errors import UserError, nearest

LAYERS = TEXT | each(TEXT)


class ProbesConfig(Slice):
    """The images that are explained, the same ones for the whole run."""

    count: Annotated[int, whole(1)] = key("chosen from validation, balanced over the classes")
    files: Annotated[list[str], each(TEXT)] = key("or a person's own")


class LookingConfig(Slice):
    """What explanations may cost, in seconds."""

    seconds: Annotated[float, least(0)] = key("an epoch, even where callbacks.budget is less")
    first_seconds: Annotated[float, least(0)] = key("of each callback's look before training")
    last_seconds: Annotated[float, least(0)] = key("of each one's at the end")


class AlarmsConfig(Slice):
    """When a run says that something is wrong with it."""

    overfitting_epochs: Annotated[int, whole(1)] = key("last epochs above the minimum of val/loss")
    overfitting_rise: Annotated[float, least(0)] = key("share of that minimum, on average")
    gap: Annotated[float, SHARE] = key("training accuracy above that of validation")
    gap_epochs: Annotated[int, whole(1)] = key("last epochs that the gap is the mean of")
    patience: Annotated[int, whole(0)] = key("epochs that an alarm holds before it is said")
    evidence_lift: Annotated[float, least(0)] = key("least evidence on the object / its own share")
    same_place: Annotated[float, least(0)] = key("share of a class's images, one border place")
    dead_share: Annotated[float, least(0)] = key("share of a layer's channels that answer nothing")
    mistaken_share: Annotated[float, least(0)] = key("share of a class taken for one other class")
    mistaken_pictures: Annotated[float, least(0)] = key("images a class has at least for that")


class LookConfig(Slice):
    """A callback of ours, by its class, with its options."""

    class_path: Annotated[str, TEXT] = Field(alias=TARGET, description="convlens.callbacks.<class>")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is called with, by name."""
        return {name: value for name, value in self.plain().items() if name != TARGET}


class EachEpochConfig(LookConfig):
    """One that looks between the first and the last epoch too."""

    every_n_epochs: Annotated[int, whole(1)] = key("epochs between two looks")


class BatchedConfig(EachEpochConfig):
    """One that runs the network on several images at once."""

    batch: Annotated[int, whole(1)] = key("images of a pass; halved when memory runs out")


class GradCamConfig(BatchedConfig):
    """Grad-CAM of the probes."""

    layers: Annotated[str | list[str], LAYERS] = key("auto (the last feature map), names, patterns")
    target: Annotated[str, TEXT] = key("answer (predicted and true class) or a class")


class ScoresConfig(BatchedConfig):
    """Numbers that say whether the explanations can be trusted."""

    which: Annotated[str, one_of("default", "all")] = key("how many of them")
    pictures: Annotated[int, whole(1)] = key("of validation, evenly spread")
    layers: Annotated[str | list[str], LAYERS] = key("auto (every activation), names or patterns")
    limit: Annotated[int, whole(1)] = key("layers at most, where auto")
    masks: Annotated[bool, SWITCH] = key("whether images with masks are judged by them")
    border: Annotated[float, SHARE] = key("share of the image's edge that counts as border")
    near: Annotated[float, SHARE] = key("share of the image that peaks of one place lie apart")
    confident: Annotated[float, SHARE] = key("least confidence of a confident mistake")
    steps: Annotated[int, whole(1, 100_000)] = key("of the insertion and deletion curves")


class MistakesConfig(BatchedConfig):
    """The most confident mistakes, and images drawn once."""

    mistakes: Annotated[int, whole(0)] = key("the most confident ones")
    random: Annotated[int, whole(0)] = key("images drawn once")


class ConfusionMatrixConfig(EachEpochConfig):
    """Which classes are taken for which."""


class ClassMeansConfig(BatchedConfig):
    """The mean Grad-CAM map of each class."""

    pictures: Annotated[int, whole(1)] = key("of validation, evenly spread")


class ActivationGridsConfig(BatchedConfig):
    """Every channel of a layer's answer to a probe."""

    layers: Annotated[str | list[str], LAYERS] = key("auto, names or patterns")
    limit: Annotated[int, whole(1)] = key("layers at most, where auto")
    probes: Annotated[int, whole(1)] = key("how many of them are shown")
    rule: Annotated[str, one_of("reference", "shared")] = key(
        "each channel's scale, or one for all"
    )


class SignedMapsConfig(BatchedConfig):
    """Maps of what speaks for a class and what against it."""

    probes: Annotated[int, whole(1)] = key("at each look")
    only: Annotated[str, one_of("correct", "wrong", "all")] = key("which probes, by their answer")
    target: Annotated[str, TEXT] = key("answer (predicted and true class) or a class")


class OcclusionMapsConfig(SignedMapsConfig):
    """What covering a part of the image does to its classes."""

    window: Annotated[float, above(0)] = key("share of the image's sides, or pixels")
    stride: Annotated[float, above(0)] = key("share of the image's sides, or pixels")
    superpixels: Annotated[bool, SWITCH] = key("cover patches of one colour instead of windows")
    segments: Annotated[int, whole(1)] = key("superpixels, about")
    baseline: Annotated[float | str, one_of("mean") | SHARE] = key("mean, or a value in [0, 1]")


class AttributionConfig(SignedMapsConfig):
    """A method of ``captum.attr``."""

    method: Annotated[str, TEXT] = key("its name, such as integrated_gradients")
    layer: Annotated[str | None, NULL | TEXT] = key("for methods that explain a layer")
    options: Annotated[dict[str, Any], TABLE] = key("the method's own")


class FilterVisualsConfig(BatchedConfig):
    """Images that excite single units most, found by gradient ascent."""

    layers: Annotated[str | list[str], LAYERS] = key("auto (convolutions and dense layers), names")
    units: Annotated[int, whole(1)] = key("of a layer, each epoch as far as the budget reaches")
    full_units: Annotated[int | None, NULL | whole(0)] = key("of a layer at the end; null: all")
    steps: Annotated[int, whole(1, 100_000)] = key("of gradient ascent")
    step_size: Annotated[float, above(0)] = key("mean change of a pixel in a step, in [0, 1]")
    recipe: Annotated[str, one_of("robust", "plain")] = key("how the ascent is kept natural")
    patches: Annotated[int, whole(0)] = key("of real images beside each unit; 0: none")
    patch_pictures: Annotated[int, whole(0)] = key("validation images searched for them")


class AugmentationPreviewConfig(LookConfig):
    """Some probes as training sees them."""

    draws: Annotated[int, whole(1, 1000)] = key("of each probe")
    probes: Annotated[int, whole(1)] = key("how many of them")


class LearningCurvesConfig(LookConfig):
    """Loss and accuracy over the epochs, as a picture."""


LOOKS: dict[str, type[LookConfig]] = {
    kind.__name__.removesuffix("Config"): kind
    for kind in (
        GradCamConfig, ScoresConfig, MistakesConfig, ConfusionMatrixConfig, ClassMeansConfig,
        ActivationGridsConfig, OcclusionMapsConfig, FilterVisualsConfig, AugmentationPreviewConfig,
        LearningCurvesConfig, AttributionConfig,
    )
}  # fmt: skip


class OwnLookConfig(Own):
    """A callback of a person's own."""


NODE = Rule(lambda value: value is None or TABLE.fits(value), f"null, or {TABLE.wanted}")


def _look(value: Any) -> Slice | None:
    """What stands behind a callback's name: null, one of ours, or a person's own."""
    # what an experiment says of a callback that `callbacks=none` leaves out is no callback yet
    if NODE.check(value) is None or TARGET not in value:
        return None
    path = value[TARGET]
    if not (isinstance(path, str) and path.startswith("convlens.")):
        return OwnLookConfig.model_validate(value)
    name = path.removeprefix("convlens.callbacks.")
    if name not in LOOKS:
        raise UserError(
            f"callbacks: _target_={path} is no callback of convlens.callbacks; "
            f"{nearest(name, LOOKS)}"
        )
    return LOOKS[name].model_validate(value)


class CallbacksConfig(Slice):
    """The callbacks that look, by name, in the order of looking."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[
        str, Annotated[LookConfig | OwnLookConfig | None, PlainValidator(_look)]
    ] = Field(init=False)

    budget: Annotated[float, least(0)] = key("share of an epoch that all may take together")

    @property
    def looks(self) -> dict[str, LookConfig | OwnLookConfig]:
        """The callbacks of the run by their names; those set to null are left out."""
        return {name: look for name, look in (self.model_extra or {}).items() if look is not None}
