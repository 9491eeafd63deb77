"""Files from the network: whole and checked, or not there at all.

Not by pooch, which overwrites a file of another content, takes whole checksums only (torchvision's
names carry eight digits), unpacks what a server calls encoded, and leaves a killed download under a
name that nobody knows again.
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
    """Download ``url`` to the file ``destination`` and return it.

    ``way_out`` ends error messages: what to do where the file cannot be had. Of a checksum the
    first digits do, which are all that torchvision's file names carry.

    A file that is there already is used if its checksum fits (or none is given); a file with
    another checksum is not overwritten but refused. Until everything has arrived and been checked
    it lies under a temporary name. Raises UserError, one line, naming address and file.
    """
    destination = Path(destination).expanduser()
    way_out = way_out or f"check the connection, or put the file at {destination} yourself"
    wanted = {name: want for name, want in (("sha256", sha256), ("md5", md5)) if want}
    if destination.exists():
        if name := _differs(destination, wanted):
            raise UserError(
                f"{destination} is not what {url} should give ({name} differs): "
                "remove it to download it again"
            )
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(destination, "wb", sync=True) as file:
            _receive(url, destination.name, file.write, progress, way_out)
            file.flush()
            if name := _differs(Path(file.name), wanted):
                raise UserError(
                    f"what {url} sent has another {name} than expected: it is incomplete or "
                    f"was changed on the way; {way_out}"
                )
    except OSError as error:
        raise UserError(f"cannot write {destination}: {error.strerror or error}") from None
    return destination


def _differs(file: Path, wanted: dict[str, str]) -> str:
    """The first of the wanted checksums that a file has not; empty where it has them all."""
    found = (name for name, want in wanted.items() if not checksum(file, name).startswith(want))
    return next(found, "")


def _receive(
    url: str, name: str, write: Callable[[bytes], object], progress: bool, way_out: str
) -> None:
    """Stream ``url`` to ``write``; the network fails as UserError, the disk as OSError."""
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
        doing, received = f"downloading {name}", 0
        if progress and not is_on_terminal():
            print(f"{doing}, {total / 1e6:.1f} MB" if total else doing, file=sys.stderr)
        with progress_bar(doing, total, shown=progress, in_bytes=True) as advance:
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
                advance(len(block))
        if total is not None and received != total:
            raise UserError(f"{failed}: {received} of {total} bytes arrived; {way_out}")


def checksum(path: Path, name: str) -> str:
    """The hexadecimal digest of a file; ``name`` as :mod:`hashlib` knows it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()
