"""What users read is short, in plain words, and names only keys and commands that exist.

Every string of the package that is a sentence counts as a message: errors, log lines, prints,
alarms, notes, help texts. Docstrings do not.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from convlens.cli.main import COMMANDS, TOOLS
from convlens.config.schema import Config
from convlens.config.schema.keys import Slice
from support.places import ROOT

MOST = 160  # characters of a template
VALUE = "1234567"  # stands for a value in a template: as long as most are
WORDS = 4  # a string of at least as many words is a sentence
CALLS = {
    "UserError", "SharedError", "Interrupted", "print", "warn", "info", "warning", "error",
    "log_once", "report_cut",
}  # fmt: skip
ODD = re.compile(
    r"\b(told|tells of|lies in|lie in|lies at|reckon\w*|amid|goes on|go on|going on|gone on|stands in|"
    r"asked for|as far as|of one's own|a person's|person's own|looked at by|whatever it|hush\w*|"
    r"spoken|has not got|have not got|otherwise divided|is its best|of ours|behold\w*|whence|"
    r"thereof|hitherto|nought|in vain|no matter|by hand of|not to be had)\b"
)


@dataclass(frozen=True)
class Message:
    """A string, with ``VALUE`` in the place of each value, and where it is."""

    text: str
    place: str


def literal(node: ast.AST) -> str | None:
    """Return the text of a string, an f-string or a sum of such, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [literal(node.left), literal(node.right)]
        return None if None in parts else "".join(map(str, parts))
    return None


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is not a docstring, the longest form of each."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        text = literal(child)
        if text is None:
            yield from strings(child)
            continue
        yield child.lineno, text
        for part in ast.walk(child):  # strings within the values of an f-string
            if isinstance(part, ast.FormattedValue):
                yield from strings(part)


def called(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is printed, logged or raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in CALLS:
                texts = map(literal, node.args)
                yield from ((node.lineno, text) for text in texts if text)


@cache
def messages() -> tuple[Message, ...]:
    found = {}
    for folder in (ROOT / "src" / "convlens", ROOT / "callbacks"):
        for file in sorted(folder.rglob("*.py")):
            tree = ast.parse(file.read_text())
            sentences = [each for each in strings(tree) if len(each[1].split()) >= WORDS]
            for line, text in {*sentences, *called(tree)}:
                place = f"{file.relative_to(ROOT)}:{line}"
                found[place, text] = Message(text, place)
    return tuple(found.values())
