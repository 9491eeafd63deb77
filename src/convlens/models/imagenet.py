"""ImageNet classes of a network's own head, and which of them are the classes of the data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torchvision.models import VGG16_Weights

from convlens.core.errors import UserError, nearest

WAYS = ("order", "names", "numbers")
_OTHERWISE = (
    "try model.head_classes=names (other order or number), numbers (named by output) or a "
    "CSV file (class,output)"
)


def imagenet_classes() -> list[str]:
    """Return torchvision's 1000 ImageNet class names in the order of the logits.

    >>> imagenet_classes()[0], imagenet_classes()[285], len(imagenet_classes())
    ('tench', 'Egyptian cat', 1000)
    """
    return list(VGG16_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def imagenet_synsets() -> list[str]:
    """Return the classes' WordNet ids, which name ImageNet's folders, in the same order.

    >>> imagenet_synsets()[0], imagenet_synsets()[285]
    ('n01440764', 'n02124075')
    """
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())


@cache
def _map_outputs() -> dict[str, int]:
    """Return the first output of each class name and synset id."""
    known = (*enumerate(imagenet_synsets()), *enumerate(imagenet_classes()))
    return {name: output for output, name in reversed(known)}


def select_outputs(value: str | Sequence[int], class_names: Sequence[str]) -> list[int] | None:
    """Return the output of the head for each class of the data; None for all in their order.

    Args:
        value: ``order``: the classes of the data are those of the head, by name or synset id, in
            the same order; ``names``: each is one of the head's, in any order and number;
            ``numbers``: each is named by the number of its output; a CSV file ``class,output``,
            whose outputs are numbers, names or synset ids; or a list with one number per class.
        class_names: K names of the data's classes, in order.

    Raises:
        UserError: the output of a class is unknown, or two classes have the same.
    """
    if value == "order":
        if list(class_names) in (imagenet_classes(), imagenet_synsets()):
            return None
        raise UserError(_describe_other_classes(class_names))
    if not isinstance(value, str):
        outputs = _read_list(value, class_names)
    elif value == "names":
        outputs = [_find_output(name, "names") for name in class_names]
    elif value == "numbers":
        outputs = [_parse_number(name) for name in class_names]
    else:
        outputs = _read_file(value, class_names)
    for place, output in enumerate(outputs):
        if (first := outputs.index(output)) != place:
            raise UserError(
                f"model.head_classes: {class_names[first]} and {class_names[place]} are both "
                f"output {output} ({imagenet_classes()[output]}); each class needs its own"
            )
    return outputs


def _describe_other_classes(class_names: Sequence[str]) -> str:
    names, synsets = imagenet_classes(), imagenet_synsets()
    if len(class_names) != len(names):
        what = f"the data has {len(class_names)} ({', '.join(class_names[:3])}, …)"
    else:
        known = synsets if class_names[0] == synsets[0] else names
        place = next(i for i, name in enumerate(class_names) if name != known[i])
        what = f"class {place} of the data is {class_names[place]}, of the head {known[place]}"
    return (
        f"model.head=imagenet has the {len(names)} ImageNet classes in order, but {what}; "
        f"{_OTHERWISE}, or omit model.head"
    )


def _find_output(name: str, where: str) -> int:
    if name in _map_outputs():
        return _map_outputs()[name]
    raise UserError(
        f"model.head_classes={where}: {name} is not an ImageNet class or synset id; "
        f"{nearest(name, imagenet_classes())}"
    )


def _parse_number(text: str, where: str = "numbers") -> int:
    if text.isascii() and text.isdigit() and int(text) < len(imagenet_classes()):
        return int(text)
    raise UserError(f"model.head_classes={where}: {text!r} is not an output number, 0 to 999")


def _read_list(numbers: Sequence[int], class_names: Sequence[str]) -> list[int]:
    if len(numbers) != len(class_names):
        raise UserError(
            f"model.head_classes: a list of {len(numbers)} outputs for {len(class_names)} classes; "
            f"give one per class, in the order of the classes"
        )
    return [_parse_number(str(output), "[…]") for output in numbers]


def _read_file(value: str, class_names: Sequence[str]) -> list[int]:
    file = Path(value).expanduser()
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"model.head_classes={value}: choose {', '.join(WAYS)} or a CSV file; {file} cannot be "
            f"read ({reason})"
        ) from None
    stated = {row.get("class"): row.get("output") for row in rows}
    if None in stated or None in stated.values():
        raise UserError(f"model.head_classes={value}: the file needs the columns class,output")
    if missing := [name for name in class_names if name not in stated]:
        raise UserError(
            f"model.head_classes={value}: no row for {len(missing)} of the classes "
            f"({', '.join(missing[:3])})"
        )
    return [
        _parse_number(stated[name], value)
        if stated[name].isdigit()
        else _find_output(stated[name], value)
        for name in class_names
    ]
