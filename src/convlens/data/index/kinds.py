"""What a file is, by its first bytes and never by its name."""

from __future__ import annotations

import os
import re

# Only these are decoded, whatever the file's name says (others can start interpreters: EPS).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
HEAD = 512  # bytes that tell; DICOM's mark stands at 128, an SVG's may stand behind a comment

# Images that other programs show and that are not decoded here.
FOREIGN = (
    "HEIC", "AVIF", "JPEG XL", "JPEG 2000", "SVG", "camera RAW", "PSD", "PostScript", "PDF",
    "ICO", "EXR", "DICOM", "NIfTI",
)  # fmt: skip
WAY_OUT = "convert images to JPEG or PNG"

_MARKS = (  # (where, bytes, kind)
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (8, b"CR\x02", "camera RAW"),
    (0, b"FUJIFILMCCD-RAW", "camera RAW"),
    (0, b"IIRO", "camera RAW"),
    (0, b"IIU\0", "camera RAW"),
    (0, b"FOVb", "camera RAW"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\x76\x2f\x31\x01", "EXR"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (0, b"\0\0\1\xba", "video"),
    (0, b"\0\0\1\xb3", "video"),
    (0, b"FLV\1", "video"),
    (0, b"OggS", "audio or video"),
    (0, b"ID3", "audio"),
    (0, b"PK\3\4", "archive"),
    (0, b"\x1f\x8b", "archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "archive"),
    (0, b"Rar!", "archive"),
    (257, b"ustar", "archive"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"SQLite format 3", "database"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# These are TIFF files by their bytes, with a thumbnail where a TIFF has its image.
_RAW_NAMES = (".dng", ".nef", ".nrw", ".arw", ".sr2", ".pef", ".srw", ".3fr", ".iiq", ".dcr")
_BRANDS = {
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
    "camera RAW": (b"crx ",),
    "audio": (b"M4A ", b"M4B "),
}
_RIFF = {b"WEBP": "WEBP", b"AVI ": "video", b"WAVE": "audio"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def kind_of(head: bytes, name: str = "") -> str:
    """What a file is that begins with ``head``, its first ``HEAD`` bytes.

    One of ``FORMATS``, of ``FOREIGN``, or a word for a message: ``video``, ``text``, ``empty`` …
    ``name`` tells camera RAW from the TIFF that it is by its bytes, and nothing else.

    >>> kind_of(b"\\xff\\xd8\\xff\\xe0"), kind_of(b"<!DOCTYPE html>"), kind_of(b"")
    ('JPEG', 'HTML', 'empty')
    """
    if not head:
        return "empty"
    for place, mark, kind in _MARKS:
        if head.startswith(mark, place):
            return kind
    if head.startswith(_TIFF):
        return "camera RAW" if name.lower().endswith(_RAW_NAMES) else "TIFF"
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "unknown content")
    if head[4:8] == b"ftyp":
        return _branded(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return _written(head)


def _branded(head: bytes) -> str:
    """HEIC, AVIF, RAW and videos share a container (ISO/IEC 14496-12): brands tell them apart.

    The first is the main one; ``mif1`` says only that it is an image, and what others it fits.
    """
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    first = brands[0] if brands[0] not in (b"mif1", b"msf1") else None
    for kind, marks in _BRANDS.items():
        if first in marks:
            return kind
    if first is None:
        return "AVIF" if any(brand in _BRANDS["AVIF"] for brand in brands) else "HEIC"
    return "video"


def _written(head: bytes) -> str:
    """Text of a kind, or unknown content."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text"  # UTF-16
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not a letter that is cut in two
            return "unknown content"
        text = head[: error.start].decode("utf-8")
    if re.search(r"[\0-\x08\x0e-\x1a]", text):
        return "unknown content"
    start = text.lstrip("\ufeff \t\r\n").lower()
    if "<svg" in start:
        return "SVG"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "HTML"
    return "XML" if start.startswith("<?xml") else "text"


def kind_of_file(path: str | os.PathLike) -> str:
    """``kind_of`` of a file, ``HEAD`` bytes of which are read; never raises.

    The caller has made sure that it is a file: a pipe would be waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return kind_of(os.read(descriptor, HEAD), os.fspath(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"unreadable: {error.strerror}"
