"""``review.html``: a page to go through the suspected labels of a run, and save corrections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from convlens.pages.render import render


def render_review(
    name: str, key: str, entries: Sequence[dict[str, Any]], classes: Sequence[str],
    earlier: Sequence[Sequence[str]], corrected: Sequence[str],
) -> str:  # fmt: skip
    """Return the page.

    Args:
        name: of the run.
        key: under which the browser keeps the answers.
        entries: by image, the most suspicious first: ``file``, ``given`` (its label in the run),
            ``original`` (in the data set), ``other`` (the class that the network names),
            ``split``, ``suspected``, ``aum``, ``confidence`` and ``picture``, a ``data:`` URI or
            "". Of training images the two numbers are means over the epochs.
        classes: names of all classes.
        earlier: rows ``file, class, correction`` that the run was trained with.
        corrected: the splits whose images the saved table may correct.
    """
    data = {"key": key, "entries": entries, "classes": classes, "earlier": earlier}
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":  # no name may end the script element, or open a comment in it
        text = text.replace(character, f"\\u{ord(character):04x}")
    corrected = [] if list(corrected) == ["train"] else corrected  # the default of the key
    return render("review.html", data=Markup(text), name=name, corrected=corrected)
