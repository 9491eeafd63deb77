"""Turn a template and its values into one self-contained HTML file."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from convlens.core.errors import UserError

_KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


@functools.cache
def _environment() -> Environment:
    # class names and paths are arbitrary text: escape every value, whatever the template's suffix
    return Environment(
        loader=PackageLoader("convlens.pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Fill in a template, and return the HTML.

    Every value is escaped. Templates extend ``base.html``, which adds the style (light and dark,
    readable on a phone) and a policy that keeps the browser from loading anything from elsewhere.

    Args:
        template: a file of ``pages/templates``, such as ``explained.html``.
        values: the template's variables.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    page = _environment().get_template(template).render(**values)
    # a file name may contain bytes that are not UTF-8: show them as escapes
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def read_data_uri(file: Path) -> str:
    """Return ``data_uri`` of a file.

    Raises:
        UserError: the file is neither JPEG nor PNG.
    """
    try:
        return data_uri(file.read_bytes())
    except ValueError:
        raise UserError(f"{file} is not a picture; remove it and try again") from None


def data_uri(encoded: bytes) -> str:
    """Return a ``data:`` URI that contains a JPEG or PNG picture.

    Args:
        encoded: the bytes of the file.

    Raises:
        ValueError: the bytes are neither JPEG nor PNG.
    """
    kind = _KINDS.get(encoded[:3])
    if kind is None:
        raise ValueError("neither a JPEG nor a PNG file")
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
