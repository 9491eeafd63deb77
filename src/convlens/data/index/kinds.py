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

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "camera RAW": (b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0", b"FOVb"),
    "PSD": (b"8BPS",),
    "PDF": (b"%PDF",),
    "PostScript": (b"%!PS",),
    "ICO": (b"\0\0\1\0",),
    "EXR": (b"\x76\x2f\x31\x01",),
    "video": (b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1"),
    "audio or video": (b"OggS",),
    "audio": (b"ID3",),
    "archive": (b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!"),
    "NumPy array": (b"\x93NUMPY",),
    "HDF5": (b"\x89HDF",),
    "database": (b"SQLite format 3",),
}
_INSIDE = {  # kind: (where, bytes)
    "camera RAW": (8, b"CR\x02"),
    "DICOM": (128, b"DICM"),
    "NIfTI": (344, b"n+1\0"),
    "archive": (257, b"ustar"),
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# These are TIFF files by their bytes, with a thumbnail where a TIFF has its image.
_RAW_NAMES = (".dng", ".nef", ".nrw", ".arw", ".sr2", ".pef", ".srw", ".3fr", ".iiq", ".dcr")
_BRANDS = {
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
    "AVIF": (b"avif", b"avis"),
    "camera RAW": (b"crx ",),
    "audio": (b"M4A ", b"M4B "),
}
_RIFF = {b"WEBP": "WEBP", b"AVI ": "video", b"WAVE": "audio"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def detect_kind(head: bytes, name: str = "") -> str:
    """What a file is that begins with ``head``, its first ``HEAD`` bytes.

    One of ``FORMATS``, of ``FOREIGN``, or a word for a message: ``video``, ``text``, ``empty`` …
    ``name`` tells camera RAW from the TIFF that it is by its bytes, and nothing else.

    >>> detect_kind(b"\\xff\\xd8\\xff\\xe0"), kind_of(b"<!DOCTYPE html>"), kind_of(b"")
    ('JPEG', 'HTML', 'empty')
    """
    if not head:
        return "empty"
    for kind, marks in _STARTS.items():
        if head.startswith(marks):
            return kind
    for kind, (place, mark) in _INSIDE.items():
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
    if brands[0] in (b"mif1", b"msf1"):
        return "AVIF" if set(brands) & set(_BRANDS["AVIF"]) else "HEIC"
    return next((kind for kind, marks in _BRANDS.items() if brands[0] in marks), "video")


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


def detect_file_kind(path: str | os.PathLike) -> str:
    """``detect_kind`` of a file, ``HEAD`` bytes of which are read; never raises.

    The caller has made sure that it is a file: a pipe would be waited for.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return detect_kind(file.read(HEAD), os.fspath(path))
    except OSError as error:
        return f"unreadable: {error.strerror}"
