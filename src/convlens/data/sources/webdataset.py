"""``data=webdataset``: shards of WebDataset, tar files with an image and its label side by side.

    train-000000.tar      cat/17.jpg  cat/17.cls  cat/18.jpg  cat/18.cls  …
    val/000000.tar        the split is the folder's, or the beginning of the shard's name

Members with the same name up to the first dot of the file name form a sample
(github.com/webdataset/webdataset). Shards are read with ``tarfile``: nothing is extracted to a name
that the archive chooses, and no address is opened. A shard without its end marker was cut off,
which ``tarfile`` reports only within a member.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.folders import count_noun
from convlens.data.index.names import find_on_disk
from convlens.data.index.split_names import match_splits
from convlens.data.sources.annotated import check_class_names
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.unpacked import PackedImage, list_unpacked, unpack_images

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
LABELS = ("cls", "txt", "json")
_MEMBER = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)  # key and suffix
_META = re.compile(r"__[^/]*__($|/)")  # members about the shard itself
_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")
_BLOCK = tarfile.BLOCKSIZE


@dataclass
class _Left:
    """What is left out, and the first example of each."""

    without_image: list[str] = field(default_factory=list)
    without_label: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)

    def describe(self) -> list[str]:
        """Return lines to report to the user."""
        lines = []
        for each, what in (
            (self.without_image, "without an image"),
            (self.without_label, "without a label"),
        ):
            if each:
                samples = count_noun(len(each), "sample", "samples")
                lines.append(f"left out: {samples} {what}, the first: {each[0]}")
        if self.cut_off:
            shards = count_noun(len(self.cut_off), "shard ends", "shards end")
            lines.append(f"{shards} early, and what follows is missing: {self.cut_off[0]}")
        return lines


def find_webdataset(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find the labelled images in the shards below a folder.

    Args:
        spec: the config group ``data``.
        for_test: nothing will be trained on the images.

    Raises:
        UserError: there are no shards, one is damaged or ends early (not with
            ``data.on_error=skip``), or it is not known which member is the label.
    """
    root = find_data_dir(spec)
    if not root.is_dir():
        raise UserError(f"no folder {root}: set data.dir to the folder of the shards")
    parts = _group_shards(root)
    if not parts:
        raise UserError(f"no .tar files in {root}: point data.dir at the folder of the shards")
    roles = match_splits(list(parts), str(root))
    notes = [
        f"the shards of {name!r} are not used: that is not the name of a split"
        for name in parts
        if roles[name] is None and len(parts) > 1
    ]
    used = [
        (shard, roles[name])
        for name, shards in parts.items()
        if roles[name] is not None or len(parts) == 1
        for shard in shards
    ]
    member = _check_member(spec.label_member) or _detect_member(used[0][0])
    shards = [shard for shard, _ in used]
    names = _read_class_names(spec.class_names)
    key = ["webdataset", member, names, spec.on_error, [split for _, split in used]]
    read = partial(_read_shards, used, root, (member, names), spec.on_error)
    folder, rows, lines = unpack_images(
        shards, key, read, what=f"the images of {count_noun(len(shards), 'shard', 'shards')}",
        total=len(shards),
    )  # fmt: skip
    return list_unpacked(root, folder, rows, [*notes, *lines], for_test)


def _group_shards(root: Path) -> dict[str, list[Path]]:
    """Return the shards by the name of their part: their folder, or their name without number."""
    parts: dict[str, list[Path]] = {}
    for shard in sorted(root.rglob("*.tar"), key=os.fsencode):
        below = shard.relative_to(root)
        name = below.parts[0] if len(below.parts) > 1 else _NUMBER.sub("", shard.stem)
        parts.setdefault(name or "shards", []).append(shard)
    return parts


def _check_member(member: str | None) -> str | None:
    if member is None or member in ("cls", "txt") or re.fullmatch(r"json\..+", member, re.DOTALL):
        return member
    raise UserError(f"data.label_member={member}: write cls, txt or json.FIELD, such as json.label")


def _read_class_names(file: str | None) -> tuple[str, ...] | None:
    """Return the names that a text file lists, one a line; None without a file."""
    if file is None:
        return None
    path = find_on_disk(Path(file).expanduser())
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read data.class_names={path}: {error}") from None
    return check_class_names(lines, str(path))


def _detect_member(shard: Path) -> str:
    """Return the member that is the label, from the first sample of a shard.

    Raises:
        UserError: it has no label, or one that only the user can tell.
    """
    samples = read_shard(shard)
    try:
        _, first = next(samples, ("", {}))
    except EOFError as error:
        raise UserError(
            f"{shard} ends early ({error}), in its first sample: copy it again"
        ) from None
    samples.close()
    found = [suffix for suffix in LABELS if suffix in first]
    if "cls" in found:
        return "cls"
    if found == ["txt"]:
        return "txt"
    if not found:
        raise UserError(f"the first sample of {shard} has no .cls, .txt or .json: its members are "
                        f"{', '.join(sorted(first)) or 'none'}")  # fmt: skip
    raise UserError(
        f"the samples of {shard} have {' and '.join(found)}: say which is the label with "
        "data.label_member=json.FIELD, or txt"
    )


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members by lower-case suffix of each sample of a shard.

    Raises:
        EOFError: the shard ends early, or is damaged from here on.
        UserError: it cannot be read, is not a tar file, or has two members of the same name.
    """
    key, members = "", {}
    for name, content in _read_members(path):
        match = _MEMBER.match(name)
        if match is None:
            continue
        if match[1] != key:
            if members:
                yield key, members
            key, members = match[1], {}
        suffix = match[2].lower()
        if suffix in members:
            raise UserError(f"{path} has {name} twice: keep one")
        members[suffix] = content
    if members:
        yield key, members


def _read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file in a tar archive.

    Raises:
        EOFError: it ends early, or is damaged.
        UserError: it cannot be read, or is not an uncompressed tar file.
    """
    with _open_shard(path) as shard:
        try:
            size = path.stat().st_size
            while (member := shard.next()) is not None:
                if member.isreg() and not _META.match(member.name):
                    if member.size > size:  # a sparse file may claim any size
                        raise UserError(f"{member.name} in {path} claims more bytes than the shard")
                    yield member.name, shard.extractfile(member).read()
                shard.members = []  # they are not needed again
        except (tarfile.TarError, ValueError) as error:
            raise EOFError(str(error)) from None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        with open(path, "rb") as file:
            file.seek(shard.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise EOFError("no end marker")


def _open_shard(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except tarfile.TarError as error:
        raise UserError(f"{path} is not an uncompressed tar file: {error}") from None


def _read_shards(
    shards: Sequence[tuple[Path, str | None]], root: Path,
    where: tuple[str, tuple[str, ...] | None], on_error: str,
    notes: list[str], advance: Callable[[int], None],
) -> Iterator[PackedImage]:  # fmt: skip
    """Yield every labelled image; report the others."""
    left = _Left()
    for shard, split in shards:
        place = str(shard.relative_to(root))
        seen = set()
        try:
            for key, members in read_shard(shard):
                if key in seen:
                    raise UserError(f"{shard} has two samples {key}: keep one, or rename it")
                seen.add(key)
                if image := _read_sample(key, members, shard, split, where, left):
                    yield image
        except EOFError as error:
            if on_error == "raise":
                samples = count_noun(len(seen), "sample", "samples")
                raise UserError(
                    f"{shard} ends early ({error}) after {samples}: copy it again, or use what it "
                    "has with data.on_error=skip"
                ) from None
            left.cut_off.append(f"{place} ({error})")
        advance(1)
    notes += left.describe()


def _read_sample(
    key: str, members: Mapping[str, bytes], shard: Path, split: str | None,
    where: tuple[str, tuple[str, ...] | None], left: _Left,
) -> PackedImage | None:  # fmt: skip
    """Return the image of a sample; None if it is left out."""
    images = [suffix for suffix in members if suffix in IMAGES]
    if len(images) > 1:
        raise UserError(
            f"{key} in {shard} has {images[0]} and {images[1]}: keep one image per sample"
        )
    if not images:
        left.without_image.append(f"{key} in {shard.name}")
        return None
    try:
        label = _read_label(members, *where)
    except ValueError as error:
        raise UserError(f"label of {key} in {shard}: {error}") from None
    if not label:
        left.without_label.append(f"{key} in {shard.name}")
        return None
    return PackedImage(split, label, f"{key}.{images[0]}", members[images[0]])


def _read_label(members: Mapping[str, bytes], member: str, names: tuple[str, ...] | None) -> str:
    """Return the class of a sample; "" if it has none.

    Raises:
        ValueError: its label is damaged, or not the number of a name.
    """
    label = _read_value(members, member)
    if names is None or not label:
        return label
    if not label.isascii() or not label.isdecimal() or int(label) >= len(names):
        raise ValueError(
            f"{label[:40]!r} is not a number of data.class_names, 0 to {len(names) - 1}"
        )
    return names[int(label)]


def _read_value(members: Mapping[str, bytes], member: str) -> str:
    """Return the label of a sample as text; "" if it has none.

    Raises:
        ValueError: it is not text, not JSON, or neither a text nor a whole number.
    """
    suffix, _, name = member.partition(".")
    if suffix not in members:
        return ""
    try:
        text = members[suffix].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"its .{suffix} is not UTF-8") from None
    if not name:
        return text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON is broken: {error}") from None
    value = content.get(name) if isinstance(content, dict) else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {str(value)[:40]}, neither a text nor a whole number")
    return str(value).strip()
