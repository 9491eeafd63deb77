"""Files from the network: whole and checked, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from convlens.core.errors import UserError

TIMEOUT = 30  # seconds without a byte before a server counts as gone
_BLOCK = 1 << 18


def fetch(
    url: str,
    destination: str | os.PathLike,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    sha256_prefix: str | None = None,
    progress: bool = True,
    way_out: str | None = None,
) -> Path:
    """Download ``url`` to the file ``destination`` and return it.

    ``way_out`` ends error messages: what to do where the file cannot be had. ``sha256_prefix`` are
    the first digits of the checksum, as torchvision's file names carry them.

    A file that is there already is used if its checksum fits (or none is given); a file with
    another checksum is not overwritten but refused. Until everything has arrived and been checked
    it lies under a temporary name. Raises UserError, one line, naming address and file.
    """
    destination = Path(destination).expanduser()
    way_out = way_out or f"check the connection, or put the file at {destination} yourself"
    asked = (("sha256", sha256 or sha256_prefix), ("md5", md5))
    wanted = [(name, want) for name, want in asked if want]
    if destination.exists():
        for name, want in wanted:
            if not checksum(destination, name).startswith(want):
                raise UserError(
                    f"{destination} is not what {url} should give ({name} differs): "
                    "remove it to download it again"
                )
        return destination
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            _receive(url, destination.name, file.write, progress, way_out)
            file.flush()
            os.fsync(file.fileno())
        for name, want in wanted:
            if not checksum(temporary, name).startswith(want):
                raise UserError(
                    f"what {url} sent has another {name} than expected: it is incomplete or "
                    f"was changed on the way; {way_out}"
                )
        os.replace(temporary, destination)
    except OSError as error:
        raise UserError(f"cannot write {destination}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return destination


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
        received = 0
        with _bar(name, total, progress) as advance:
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


@contextlib.contextmanager
def _bar(name: str, total: int | None, shown: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal's stderr, one line elsewhere."""
    console = Console(stderr=True)
    if shown and console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as bars:
            task = bars.add_task(f"downloading {name}", total=total)
            yield lambda count: bars.advance(task, count)
        return
    if shown:
        size = f", {total / 1e6:.1f} MB" if total else ""
        print(f"downloading {name}{size}", file=sys.stderr)
    yield lambda count: None


def checksum(path: Path, name: str) -> str:
    """The hexadecimal digest of a file; ``name`` as :mod:`hashlib` knows it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()
