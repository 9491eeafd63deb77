"""A few hexadecimal digits that stand for all that something was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice

_ITEMS = 4096  # of a list, made into text at a time


class Digest:
    """BLAKE2 of JSON-able parts, given one after the other; long lists need not exist at once."""

    def __init__(self, *parts: object):
        self._hash, self._begun = hashlib.blake2b(digest_size=16), False
        for part in parts:
            self.add(part)

    def add(self, part: object) -> None:
        self._next(_json(part))

    def add_all(self, items: Iterable) -> None:
        """One more part: the list of ``items``."""
        self._next("[")
        items, lead = iter(items), ""
        while chunk := list(islice(items, _ITEMS)):
            self._put(lead + _json(chunk)[1:-1])
            lead = ","
        self._put("]")

    def copy(self) -> Digest:
        other = Digest()
        other._hash, other._begun = self._hash.copy(), self._begun
        return other

    def hexdigest(self) -> str:
        """32 hexadecimal digits, those of ``digest`` of the same parts."""
        whole = self._hash.copy()
        whole.update(b"]" if self._begun else b"[]")
        return whole.hexdigest()

    def _next(self, text: str) -> None:
        self._put(("," if self._begun else "[") + text)
        self._begun = True

    def _put(self, text: str) -> None:
        self._hash.update(text.encode("utf-8", "surrogatepass"))


def _json(part: object) -> str:
    return json.dumps(part, sort_keys=True, separators=(",", ":"))


def digest(*parts: object) -> str:
    """BLAKE2 of JSON-able parts, 32 hexadecimal digits."""
    return Digest(*parts).hexdigest()
