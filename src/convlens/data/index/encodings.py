"""The encoding of a table of labels, which decides how names are spelled.

A byte order mark says it (UTF-8, UTF-16, UTF-32). Without one, text that is valid UTF-8 is UTF-8:
other encodings hardly ever produce its byte sequences by chance. Anything else has no mark of its
own. It is read as Windows-1252, which Excel in Western Europe and America writes, and a line says
so, with an example; ``data.encoding`` states another encoding.

File names may be bytes without any encoding. A table whose names are those bytes is read so.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.data.index.labels import Keys

# the four bytes of UTF-32 begin with the two of UTF-16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_NAMES = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "utf-32": "UTF-32", "cp1252": "Windows-1252"}
# what an unknown name is compared with
_COMMON = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "cp1250", "cp1251", "latin-1",
    "iso8859-2", "iso8859-15", "mac-roman", "shift_jis", "gb18030", "big5", "euc-kr",
)  # fmt: skip
_SHOWN = 40  # characters of an example


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a table become text.

    Attributes:
        codec: Python's name of the encoding.
        errors: what to do about other bytes, as in ``open``.
        note: line to report to the user; "" if the table is plain ASCII.
    """

    codec: str
    errors: str
    note: str = ""


# UTF-8 with or without a mark; bytes of file names that are not UTF-8 come back unchanged
UTF8 = Encoding("utf-8-sig", "surrogateescape")


def detect_encoding(
    path: Path, named: str | None, keys: Keys, has_byte_names: Callable[[], bool]
) -> Encoding:
    """Return the encoding of a table; ``UTF8`` for a file that cannot be read.

    Args:
        path: the table.
        named: the encoding that the user states; None to detect it.
        keys: what errors call the arguments.
        has_byte_names: tells whether file names in a table that is not UTF-8 exist as these bytes.

    Raises:
        UserError: ``named`` is no text encoding, or the table contains zero bytes.
    """
    if named is not None:
        return Encoding(_find_codec(named, keys), "strict", f"{path} is read as {named}")
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        mark = next((mark for mark in _MARKS if head.startswith(mark)), None)
        if mark is not None:
            codec = _MARKS[mark]
            errors = UTF8.errors if codec == UTF8.codec else "strict"
            return Encoding(codec, errors, f"{path} is read as {_NAMES[codec]}: its mark says so")
        is_ascii, number, line = _find_other_line(path, keys)
    except OSError:
        return UTF8  # reading the table reports it
    if line is None:
        return UTF8 if is_ascii else replace(UTF8, note=f"{path} is read as UTF-8")
    if has_byte_names():
        note = f"{path} is read as UTF-8; file names that are not UTF-8 stay bytes"
        return replace(UTF8, note=note)
    example = line.decode("cp1252", "replace").strip()[:_SHOWN]
    return Encoding(
        "cp1252", "strict",
        f"{path} is not UTF-8 and is read as Windows-1252, such as line {number}, {example!r}; "
        f"if that is misspelled, set {keys.encoding}",
    )  # fmt: skip


def _find_codec(named: str, keys: Keys) -> str:
    try:
        "".encode(named)  # refuses codecs that convert something else, such as zip
        codec = codecs.lookup(named).name
    except (LookupError, ValueError):
        raise UserError(
            f"{keys.encoding}={named} is no text encoding: {nearest(named, _COMMON)}"
        ) from None
    return UTF8.codec if codec == "utf-8" else codec


def _find_other_line(path: Path, keys: Keys) -> tuple[bool, int, bytes | None]:
    """Return whether a file is ASCII, and number and bytes of its first line that is not UTF-8."""
    is_ascii = True
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                raise UserError(
                    f"{path} contains zero bytes, as UTF-16 without a byte order mark does: save "
                    f"it as UTF-8, or set {keys.encoding}=utf-16-le"
                )
            if line.isascii():
                continue
            is_ascii = False
            try:
                line.decode()
            except UnicodeDecodeError:
                return False, number, line
    return is_ascii, 0, None
