"""Parse a page as a browser does."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link", "hr"}


@dataclass
class Element:
    """One element; ``text`` is all its text, with entities resolved."""

    tag: str
    attributes: dict[str, str]
    above: list[Element] = field(repr=False)
    text: str = ""

    def has_class(self, name: str) -> bool:
        return name in self.attributes.get("class", "").split()


class Page(HTMLParser):
    """All elements of a page, in order.

    Raises:
        AssertionError: elements are not closed in the order in which they were opened.
    """

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        element = Element(tag, attributes, list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs), list(self._open)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1].tag == tag, (tag, self._open[-1:])
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return elements of a kind with these attributes (``data_epoch``: ``data-epoch``)."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            e
            for e in self.elements
            if e.tag == tag and all(e.attributes.get(n) == v for n, v in wanted.items())
        ]

    def inside(self, element: Element, tag: str) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and any(a is element for a in e.above)]


def outside_references(text: str) -> list[str]:
    """Return everything that a browser would load from elsewhere."""
    found = []
    for element in Page(text).elements:
        for name, value in element.attributes.items():
            if name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
                if not value.startswith(("#", "data:")):
                    found.append(f"{element.tag} {name}={value[:80]}")
            elif "url(" in value:
                found.append(f"{element.tag} {name}={value[:80]}")
        if element.tag in ("style", "script") and (
            "url(" in element.text or "@import" in element.text or "://" in element.text
        ):
            found.append(element.tag)
        if element.tag in ("link", "iframe", "object", "embed", "base"):
            found.append(element.tag)
    return found
