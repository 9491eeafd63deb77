"""Download files: a file is complete and its checksum verified, or it does not exist.

We do not use pooch: it overwrites a file that has different content, accepts only complete
checksums (torchvision's file names contain eight digits), decompresses replies that a server marks
as encoded, and leaves interrupted downloads behind under names that nothing uses again.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.core.progress import is_on_terminal, progress_bar

TIMEOUT = 30  # seconds without a byte before a server counts as gone
_BLOCK = 1 << 18


def fetch(
    url: str,
    destination: str | os.PathLike,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: bool = True,
    way_out: str | None = None,
) -> Path:
    """Download ``url`` to the file ``destination`` and return its path.

    An existing file is used if its checksum matches or none is given. The file has a temporary name
    until it is complete and its checksum is verified.

    Args:
        url: address of the file.
        destination: path of the file; missing parent folders are created.
        sha256: expected checksum in hexadecimal digits; the first digits are enough, because
            torchvision's file names contain no more.
        md5: the same for MD5.
        progress: whether to report the progress on stderr.
        way_out: end of error messages: what to do if the file cannot be downloaded. None for a
            general hint.

    Raises:
        UserError: the download failed, the checksum does not match, or an existing file has another
            checksum. That file is not overwritten. The message names the address and the file.
    """
    destination = Path(destination).expanduser()
    way_out = way_out or f"check the connection, or put the file at {destination} yourself"
    expected = {name: digits for name, digits in (("sha256", sha256), ("md5", md5)) if digits}
    if destination.exists():
        if name := _find_mismatch(destination, expected):
            raise UserError(
                f"{destination} is not the file that {url} provides (its {name} differs): "
                "remove it to download it again"
            )
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(destination, "wb", sync=True) as file:
            _receive(url, destination.name, file.write, progress, way_out)
            file.flush()
            if name := _find_mismatch(Path(file.name), expected):
                raise UserError(
                    f"the download from {url} has another {name} than expected: it is incomplete "
                    f"or was modified; {way_out}"
                )
    except OSError as error:
        raise UserError(f"cannot write {destination}: {error.strerror or error}") from None
    return destination


def _find_mismatch(file: Path, expected: dict[str, str]) -> str:
    """Return the name of the first checksum that does not match, or an empty text."""
    for name, digits in expected.items():
        if not checksum(file, name).startswith(digits):
            return name
    return ""


def _receive(
    url: str, name: str, write: Callable[[bytes], object], progress: bool, way_out: str
) -> None:
    """Stream ``url`` to ``write``.

    Raises:
        UserError: the network failed.
        OSError: the file cannot be written.
    """
    failed = f"cannot download {url}"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "convlens"})
        reply = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{failed}: the server says {error.code} {error.reason}; {way_out}"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{failed}: {getattr(error, 'reason', error)}; {way_out}") from None
    with reply:
        length = reply.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        title, received = f"downloading {name}", 0
        in_bars = is_on_terminal()
        if progress and not in_bars:
            print(f"{title}, {total / 1e6:.1f} MB" if total else title, file=sys.stderr)
        with progress_bar(title, total, visible=progress and in_bars, in_bytes=True) as work:
            while True:
                try:
                    block = reply.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise UserError(
                        f"{failed}: {error} after {received} bytes; {way_out}"
                    ) from None
                if not block:
                    break
                write(block)
                received += len(block)
                work.advance(len(block))
        if total is not None and received != total:
            raise UserError(f"{failed}: {received} of {total} bytes arrived; {way_out}")


def checksum(path: Path, name: str) -> str:
    """Return the checksum of a file in hexadecimal digits.

    Args:
        path: the file.
        name: algorithm, one of those in ``hashlib``.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()
