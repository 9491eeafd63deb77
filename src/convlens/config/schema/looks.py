"""The config groups ``callbacks``, ``probes``, ``looking`` and ``alarms``, about explanations."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from convlens.config.schema.attention import (
    AttentionMapsConfig,
    AttentionScoresConfig,
    LeGradConfig,
)
from convlens.config.schema.keys import (
    FRACTION,
    NULL,
    SWITCH,
    TABLE,
    TARGET,
    TEXT,
    Own,
    Rule,
    Slice,
    above,
    at_least,
    each,
    key,
    one_of,
    optional,
    whole,
)
from convlens.config.schema.look import (
    LAYERS,
    BatchedConfig,
    EachEpochConfig,
    EvidenceMapsConfig,
    LookConfig,
)
from convlens.config.schema.look_learned import (
    FeatureSpaceConfig,
    LayerChangesConfig,
    ShortcutsConfig,
    SlicesConfig,
)
from convlens.core.errors import UserError, nearest


class ProbesConfig(Slice):
    """The images that are explained, the same ones throughout the run."""

    count: Annotated[int, whole(1)] = key(
        "number of probes, chosen from validation images, balanced over the classes"
    )
    files: Annotated[list[str], each(TEXT)] = key("your own image files to explain instead")


class LookingConfig(Slice):
    """How much time all explanations together may take."""

    seconds: Annotated[float | None, NULL | at_least(0)] = key(
        "time per epoch even if callbacks.budget allows less, seconds; null: 1, on a GPU 0.1"
    )
    first_seconds: Annotated[float | None, NULL | at_least(0)] = key(
        "time before training, seconds; null: 5, on a GPU 1"
    )
    last_seconds: Annotated[float | None, NULL | at_least(0)] = key(
        "time at the end, seconds; null: a tenth of the training, at least 20, on a GPU 4, less "
        "what was spent before training"
    )
    classes: Annotated[int, whole(2)] = key(
        "Grad-CAM maps to keep for each probe: predicted, true and the next most probable classes"
    )


class AlarmsConfig(Slice):
    """Thresholds of the alarms, the warnings that something is wrong with a run."""

    overfitting_epochs: Annotated[int, whole(1)] = key(
        "overfitting alarm: number of latest epochs, all with val/loss above its minimum"
    )
    overfitting_rise: Annotated[float, at_least(0)] = key(
        "overfitting alarm: mean rise of val/loss above its minimum, fraction of the minimum"
    )
    gap: Annotated[float, FRACTION] = key("gap alarm: training accuracy minus validation accuracy")
    gap_epochs: Annotated[int, whole(1)] = key(
        "gap alarm: number of latest epochs over which the gap is averaged"
    )
    overconfidence: Annotated[float | None, NULL | FRACTION] = optional(
        "over-confidence alarm: mean confidence minus accuracy on the validation images"
    )
    patience: Annotated[int, whole(0)] = key(
        "explained epochs that an alarm about explanations must last before it is reported; "
        "0 or 1: report it at once"
    )
    evidence_lift: Annotated[float, at_least(0)] = key(
        "evidence alarm: least evidence on the object, as a multiple of its fraction of the image"
    )
    same_place: Annotated[float, at_least(0)] = key(
        "border alarm: fraction of a class's images with their evidence in one place at the border"
    )
    outlier_share: Annotated[float | None, at_least(0)] = optional(
        "norm-outlier alarm: fraction of the background's patches whose token has a far larger norm"
    )
    dead_share: Annotated[float, at_least(0)] = key(
        "dead-channel alarm: fraction of a layer's channels that respond to no probe"
    )
    mistaken_share: Annotated[float, at_least(0)] = key(
        "confusion alarm: fraction of a class's images predicted as one other class"
    )
    mistaken_pictures: Annotated[float, at_least(0)] = key(
        "confusion alarm: fewest images of a class for which it is raised"
    )


class GradCamConfig(EvidenceMapsConfig):
    """Grad-CAM of the probes."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers to explain: auto (the last feature map), names or patterns"
    )


class ScoresConfig(BatchedConfig):
    """Numbers that say whether the explanations can be trusted."""

    which: Annotated[str, one_of("default", "all")] = key(
        "which scores to compute; by default the value of scores="
    )
    method: Annotated[str | None, one_of("grad_cam", "legrad")] = optional(
        "method whose maps are scored: grad_cam, or legrad for transformers"
    )
    pictures: Annotated[int, whole(1)] = key("validation images to score, evenly spread")
    layers: Annotated[str | list[str], LAYERS] = key(
        "layers to score: auto (every activation), names or patterns"
    )
    limit: Annotated[int, whole(1)] = key("largest number of layers that layers=auto chooses")
    masks: Annotated[bool, SWITCH] = key("whether to use the masks of images that have them")
    border: Annotated[float, FRACTION] = key("border region's width, fraction of the image's sides")
    near: Annotated[float, FRACTION] = key(
        "distance up to which peaks count as one place, fraction of the image's sides"
    )
    confident: Annotated[float, FRACTION] = key("lowest probability of a confident mistake")
    steps: Annotated[int, whole(1, 100_000)] = key(
        "steps of the insertion and deletion curves, which scores=all computes"
    )


class MistakesConfig(BatchedConfig):
    """The most confident mistakes, and random images."""

    mistakes: Annotated[int, whole(0)] = key("number of most confident mistakes to show")
    random: Annotated[int, whole(0)] = key(
        "number of random validation images to show, the same ones throughout the run"
    )
    table: Annotated[int | None, whole(0)] = optional("most confident mistakes to list in a table")


class DataDiaryConfig(BatchedConfig):
    """What the training images did, and the labels that are probably wrong."""

    images: Annotated[int, whole(0)] = key("number of most suspicious training images to show")


class ConfusionMatrixConfig(EachEpochConfig):
    """The confusion matrix: true classes against predicted classes."""


class ReliabilityConfig(EachEpochConfig):
    """The reliability chart: accuracy against confidence."""


class ClassMeansConfig(BatchedConfig):
    """The mean Grad-CAM map of each class."""

    pictures: Annotated[int, whole(1)] = key(
        "validation images whose Grad-CAM maps are averaged by class, evenly spread"
    )


class ActivationGridsConfig(BatchedConfig):
    """The channels of a layer's activation for a probe."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers to show: auto (conv, norm, activation and pooling), names or patterns"
    )
    limit: Annotated[int, whole(1)] = key(
        "largest number of layers that layers=auto chooses, spread over the depth"
    )
    probes: Annotated[int, whole(1)] = key("number of probes to show")
    rule: Annotated[str, one_of("shared", "reference")] = key(
        "scale: shared (one scale, 0 is black) or reference (each channel's mean ± 2 sd)"
    )
    colours: Annotated[str | None, one_of("default", "grey")] = optional(
        "colours of the maps: default, or grey (black to white)"
    )
    order: Annotated[str, one_of("strength", "index")] = key(
        "order of the channels: strength (mean magnitude in the image) or index (to compare epochs)"
    )
    channels: Annotated[int | None, NULL | whole(1)] = key(
        "largest number of channels of a layer to show; null: all"
    )


class SignedMapsConfig(BatchedConfig):
    """Maps of the evidence for a class and against it."""

    probes: Annotated[int, whole(1)] = key("number of probes to explain each time")
    only: Annotated[str, one_of("correct", "wrong", "all")] = key(
        "which probes to explain, by their prediction: correct, wrong or all"
    )
    target: Annotated[str, TEXT] = key(
        "class to explain: answer (predicted and true class) or a class name"
    )


class OcclusionMapsConfig(SignedMapsConfig):
    """What covering a part of the image does to the classes' probabilities."""

    window: Annotated[float, above(0)] = key(
        "side of the covering window, fraction of the image's sides or pixels"
    )
    stride: Annotated[float, above(0)] = key(
        "step of the covering window, fraction of the image's sides or pixels"
    )
    superpixels: Annotated[bool, SWITCH] = key(
        "cover superpixels (patches of one colour) instead of windows"
    )
    segments: Annotated[int, whole(1)] = key("approximate number of superpixels per image")
    baseline: Annotated[float | str, one_of("mean") | FRACTION] = key(
        "colour of the cover: mean (the image's mean colour) or a value in [0, 1]"
    )


class AttributionConfig(SignedMapsConfig):
    """Any of Captum's attribution methods."""

    method: Annotated[str, TEXT] = key("attribution method of Captum, such as integrated_gradients")
    layer: Annotated[str | None, NULL | TEXT] = key(
        "layer to explain, for methods that need one; null: none"
    )
    options: Annotated[dict[str, Any], TABLE] = key(
        "further options of the attribution method, {name: value}"
    )
    smooth: Annotated[float, FRACTION] = key(
        "standard deviation of the Gaussian that makes single pixels of a map visible in pictures, "
        "fraction of the image's sides"
    )


class FilterVisualsConfig(BatchedConfig):
    """Images that excite single units most, found by gradient ascent."""

    layers: Annotated[str | list[str], LAYERS] = key(
        "layers whose units to visualise: auto (convolutions and dense layers), names or patterns"
    )
    limit: Annotated[int | None, NULL | whole(1)] = key(
        "largest number of layers that layers=auto chooses, spread over the depth; null: all"
    )
    choose: Annotated[str, one_of("important", "even")] = key(
        "which units of a layer: important (those that matter most for the predictions on the "
        "probes) or even (evenly spread)"
    )
    units: Annotated[int, whole(1)] = key("units per layer and epoch, if the budget allows")
    full_units: Annotated[int | None, NULL | whole(0)] = key(
        "units per layer at the end of training; null: all"
    )
    steps: Annotated[int, whole(1, 100_000)] = key("steps of gradient ascent")
    step_size: Annotated[float, above(0)] = key(
        "mean change of a pixel per step of gradient ascent, in [0, 1]"
    )
    recipe: Annotated[str, one_of("robust", "plain")] = key(
        "gradient ascent: robust (natural frequencies and colours) or plain"
    )
    patches: Annotated[int, whole(0)] = key(
        "patches of real images to show beside each unit; 0: none"
    )
    patch_pictures: Annotated[int, whole(0)] = key(
        "validation images to search for such patches, if time allows"
    )


class AugmentationPreviewConfig(LookConfig):
    """Some probes with the augmentation of training."""

    draws: Annotated[int, whole(1, 1000)] = key("augmented versions of each probe to show")
    probes: Annotated[int, whole(1)] = key("number of probes to show augmented")


class LearningCurvesConfig(LookConfig):
    """Loss and accuracy over the epochs, as a chart."""


LOOKS: dict[str, type[LookConfig]] = {
    kind.__name__.removesuffix("Config"): kind
    for kind in (
        GradCamConfig, LeGradConfig, ScoresConfig, MistakesConfig, ConfusionMatrixConfig,
        DataDiaryConfig, ClassMeansConfig, ActivationGridsConfig, AttentionMapsConfig,
        AttentionScoresConfig, LayerChangesConfig, FeatureSpaceConfig, OcclusionMapsConfig,
        ShortcutsConfig, SlicesConfig, FilterVisualsConfig, AugmentationPreviewConfig,
        LearningCurvesConfig,
        ReliabilityConfig, AttributionConfig,
    )
}  # fmt: skip


class OwnLookConfig(Own):
    """A user-defined callback."""


NODE = Rule(lambda value: value is None or TABLE.fits(value), f"null or {TABLE.expected}")


def _validate_look(value: Any) -> LookConfig | OwnLookConfig | None:
    """Return the config of a callback, ours or user-defined, or None if there is no callback."""
    # an experiment may set keys of a callback that `callbacks=none` leaves out
    if NODE.check(value) is None or TARGET not in value:
        return None
    path = value[TARGET]
    if not (isinstance(path, str) and path.startswith("convlens.")):
        return OwnLookConfig.model_validate(value)
    name = path.removeprefix("convlens.callbacks.")
    if name not in LOOKS:
        raise UserError(
            f"callbacks: _target_={path} is not a callback in convlens.callbacks; "
            f"{nearest(name, LOOKS)}"
        )
    return LOOKS[name].model_validate(value)


class CallbacksConfig(Slice):
    """The callbacks by name, in the order in which they run."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[
        str, Annotated[LookConfig | OwnLookConfig | None, PlainValidator(_validate_look)]
    ] = Field(init=False)

    budget: Annotated[float, at_least(0)] = key(
        "time for all explanations together, fraction of an epoch"
    )

    @property
    def looks(self) -> dict[str, LookConfig | OwnLookConfig]:
        """The callbacks of the run by name, without those set to null."""
        return {name: look for name, look in (self.model_extra or {}).items() if look is not None}
