"""The classes a network's own head answers with, and which of them a data set's classes are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torchvision.models import VGG16_Weights

from convlens.core.errors import UserError, nearest

WAYS = ("order", "names", "numbers")
_OTHERWISE = (
    "say model.head_classes=names if they have these names in another order or number, numbers "
    "if they are named by the output's number, or a CSV file with the columns class,output"
)


def imagenet_classes() -> list[str]:
    """The 1000 ImageNet class names in the order of the logits, as torchvision has them.

    >>> imagenet_classes()[0], imagenet_classes()[285], len(imagenet_classes())
    ('tench', 'Egyptian cat', 1000)
    """
    return list(VGG16_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def imagenet_synsets() -> list[str]:
    """Their ids in WordNet in the same order, which is the names of ImageNet's own folders.

    >>> imagenet_synsets()[0], imagenet_synsets()[285]
    ('n01440764', 'n02124075')
    """
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())


@cache
def _outputs() -> dict[str, int]:
    """The first output of each class name, and that of each synset id."""
    known = (*enumerate(imagenet_synsets()), *enumerate(imagenet_classes()))
    return {name: output for output, name in reversed(known)}


def select_outputs(asked: str | Sequence[int], class_names: Sequence[str]) -> list[int] | None:
    """Which of the 1000 outputs answers for each class of the data; None for all in their order.

    Args:
        asked: ``order``: the data's classes have to be the head's, by name or synset id, in the
            head's order; ``names``: each is one of the head's, in any order and number;
            ``numbers``: each is named by its output's number; a CSV file ``class,output``, whose
            outputs are numbers, names or synset ids; or a list with a number a class.
        class_names: of the data, ``K`` in order.

    Raises:
        UserError: a class whose output nobody knows, or two with the same one.
    """
    if asked == "order":
        if list(class_names) in (imagenet_classes(), imagenet_synsets()):
            return None
        raise UserError(_other_classes(class_names))
    if not isinstance(asked, str):
        found = _listed(asked, class_names)
    elif asked == "names":
        found = [_output_of(name, "names") for name in class_names]
    elif asked == "numbers":
        found = [_number(name) for name in class_names]
    else:
        found = _mapped(asked, class_names)
    for place, output in enumerate(found):
        if (first := found.index(output)) != place:
            raise UserError(
                f"model.head_classes: {class_names[first]} and {class_names[place]} are both "
                f"output {output} ({imagenet_classes()[output]}); every class needs its own"
            )
    return found


def _other_classes(class_names: Sequence[str]) -> str:
    names, synsets = imagenet_classes(), imagenet_synsets()
    if len(class_names) != len(names):
        what = f"the data has {len(class_names)} ({', '.join(class_names[:3])}, …)"
    else:
        known = synsets if class_names[0] == synsets[0] else names
        place = next(i for i, name in enumerate(class_names) if name != known[i])
        what = f"class {place} of the data is {class_names[place]}, of the head {known[place]}"
    return (
        f"model.head=imagenet answers with the {len(names)} ImageNet classes in their order, "
        f"{what}; {_OTHERWISE}; leave model.head out for a new head"
    )


def _output_of(name: str, where: str) -> int:
    if name in _outputs():
        return _outputs()[name]
    raise UserError(
        f"model.head_classes={where}: {name} is no ImageNet class or synset id; "
        f"{nearest(name, imagenet_classes())}"
    )


def _number(text: str, where: str = "numbers") -> int:
    if text.isascii() and text.isdigit() and int(text) < len(imagenet_classes()):
        return int(text)
    raise UserError(f"model.head_classes={where}: {text!r} is no output's number, 0 to 999")


def _listed(asked: Sequence[int], class_names: Sequence[str]) -> list[int]:
    if len(asked) != len(class_names):
        raise UserError(
            f"model.head_classes: a list of {len(asked)} outputs for {len(class_names)} classes; "
            f"one for each is expected, in the order of the classes"
        )
    return [_number(str(output), "[…]") for output in asked]


def _mapped(asked: str, class_names: Sequence[str]) -> list[int]:
    file = Path(asked).expanduser()
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"model.head_classes={asked}: {', '.join(WAYS)}, or a CSV file; {file} cannot be read "
            f"({reason})"
        ) from None
    stated = {row.get("class"): row.get("output") for row in rows}
    if None in stated or None in stated.values():
        raise UserError(f"model.head_classes={asked}: the columns class,output are expected")
    if missing := [name for name in class_names if name not in stated]:
        raise UserError(
            f"model.head_classes={asked}: no row for {len(missing)} of the classes "
            f"({', '.join(missing[:3])})"
        )
    return [
        _number(stated[name], asked) if stated[name].isdigit() else _output_of(stated[name], asked)
        for name in class_names
    ]
