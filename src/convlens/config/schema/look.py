"""What the configs of our callbacks have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from convlens.config.schema.keys import SWITCH, TARGET, TEXT, Slice, key, one_or_each, whole

LAYERS = one_or_each(TEXT)


class LookConfig(Slice):
    """One of our callbacks: its class and its options."""

    class_path: Annotated[str, TEXT] = Field(
        alias=TARGET, description="class of the callback, convlens.callbacks.<class>"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the class, by name."""
        return {name: value for name, value in self.plain().items() if name != TARGET}


class EachEpochConfig(LookConfig):
    """A callback that also runs between the first and the last epoch."""

    every_n_epochs: Annotated[int, whole(1)] = key("how often the callback runs, epochs")


class BatchedConfig(EachEpochConfig):
    """A callback that runs the network on several images at once."""

    batch: Annotated[int, whole(1)] = key(
        "images per pass through the network; halved when memory runs out"
    )


class EvidenceMapsConfig(BatchedConfig):
    """Maps of evidence for classes, of the probes."""

    target: Annotated[str, TEXT] = key(
        "class to explain: answer (predicted and true class) or a class name"
    )
    classes: Annotated[int, whole(2)] = key(
        "maps to keep for each probe: predicted, true and the next most probable classes; by "
        "default the value of looking.classes"
    )
    pixelated: Annotated[bool, SWITCH] = key(
        "whether pictures show the cells (of transformers: patches) with sharp edges"
    )
