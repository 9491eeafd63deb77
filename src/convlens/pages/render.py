"""From a template and its values to one self-contained HTML file."""

from __future__ import annotations

import base64
import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


@functools.cache
def _environment() -> Environment:
    # class names and paths are anybody's text: all of it is escaped, whatever the file is called
    return Environment(
        loader=PackageLoader("convlens.pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """The page: ``template`` (a file of ``pages/templates``, such as ``explained.html``) filled in.

    Every value is escaped. Templates extend ``base.html``, which brings the style (light and dark,
    readable on a phone) and a policy that forbids the browser to load anything from elsewhere.

    Raises:
        jinja2.UndefinedError: a value that the template needs is missing.
    """
    page = _environment().get_template(template).render(**values)
    # bytes of a file's name that are no UTF-8 are shown as their codes; a page cannot hold them
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def data_uri(encoded: bytes) -> str:
    """A JPEG or PNG file's bytes as an address that holds the picture itself.

    Raises:
        ValueError: the bytes are neither.
    """
    kind = _KINDS.get(encoded[:3])
    if kind is None:
        raise ValueError("neither a JPEG nor a PNG file")
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
