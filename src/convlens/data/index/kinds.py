"""Detect a file's type by its first bytes, never by its name."""

from __future__ import annotations

import os
import re

# Only these are decoded, whatever the file's name; other formats can start an interpreter (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
HEAD = 512  # bytes read; DICOM's mark is at 128, an SVG's may follow a comment

# Image formats of other programs, which are not decoded here.
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
# By their bytes these are TIFF files, but with a thumbnail instead of the image.
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
    """Return the type of a file from ``head``, its first ``HEAD`` bytes.

    The result is one of ``FORMATS``, of ``FOREIGN``, or a word for a message: ``video``, ``text``,
    ``empty`` and others. ``name`` only distinguishes camera RAW from TIFF.

    >>> detect_kind(b"\\xff\\xd8\\xff\\xe0"), detect_kind(b"<!DOCTYPE html>"), detect_kind(b"")
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
        return _detect_brand(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return _detect_text(head)


def _detect_brand(head: bytes) -> str:
    """Distinguish HEIC, AVIF, RAW and videos, which share a container (ISO/IEC 14496-12).

    Its first brand is the main one; ``mif1`` only says that it is an image, so the others decide.
    """
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    if brands[0] in (b"mif1", b"msf1"):
        return "AVIF" if set(brands) & set(_BRANDS["AVIF"]) else "HEIC"
    return next((kind for kind, marks in _BRANDS.items() if brands[0] in marks), "video")


def _detect_text(head: bytes) -> str:
    """Return the kind of a text file, or unknown content."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text"  # UTF-16
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not just a last character that is cut off
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
    """Return ``detect_kind`` of a file from its first ``HEAD`` bytes; never raises.

    The caller makes sure that it is a regular file; opening a pipe would block.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return detect_kind(file.read(HEAD), os.fspath(path))
    except OSError as error:
        return f"unreadable: {error.strerror}"
