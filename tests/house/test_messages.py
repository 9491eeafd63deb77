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

import pytest
import yaml

from convlens.cli.main import COMMANDS, TOOLS
from support.places import ROOT

MOST = 160  # characters of a template
VALUE = "{..}"  # stands for a value in a template
WORDS = 4  # a string of at least as many words is a sentence
CALLS = {
    "UserError", "SharedError", "Interrupted", "print", "warn", "info", "warning", "error",
    "log_once", "report_cut",
}  # fmt: skip
ODD = re.compile(
    r"\b(told|tells of|lies? (in|at|under)|reckon\w*|amid|go(es)? on|going on|gone on|stands in|"
    r"asked for|as far as|of one's own|a person's|person's own|looked at by|whatever it|hush\w*|"
    r"spoken|ha(s|ve) not got|is its best|of ours|no matter|not to be had|what it may)\b"
)
KEY = re.compile(r"looking(\.\w+)+")  # a string that is only a key, which messages name later
SCRIPTS = {"completion.py"}  # texts for a shell
# words before a "=" that are arguments of functions or of make, not keys
ARGUMENTS = {
    "outputs", "logits", "size", "class_names", "preprocess", "at_start", "at_end", "floor",
    "ledger", "args", "key", "num_nodes", "devices", "accelerator", "most", "of", "dim", "baseline",
    "neuron_selector",
}  # fmt: skip
# parts of the config whose keys are the user's own
OPEN = ("callbacks", "logger", "finetune.groups")


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
            if file.name in SCRIPTS:
                continue
            tree = ast.parse(file.read_text())
            sentences = (
                each
                for each in strings(tree)
                if len(each[1].split()) >= WORDS or KEY.fullmatch(each[1])
            )
            for line, text in (*sentences, *called(tree)):
                if text.startswith("<"):  # HTML
                    continue
                place = f"{file.relative_to(ROOT)}:{line}"
                found.setdefault((file, text), Message(text, place))
    return tuple(found.values())


@cache
def keys() -> frozenset[str]:
    """Every key of every config file, and each table on the way to it; ``*`` is any number."""

    def flatten(prefix: str, value: object) -> Iterator[str]:
        yield prefix
        table = dict.fromkeys("*", value[0]) if isinstance(value, list) and value else value
        for key, below in table.items() if isinstance(table, dict) else ():
            yield from flatten(f"{prefix}.{key}" if prefix else str(key), below)

    folder, found = ROOT / "configs", set()
    for file in folder.rglob("*.yaml"):
        parts = file.relative_to(folder).parts
        group = "" if parts[0] in ("train.yaml", "experiment", "debug") else parts[0]
        found |= set(flatten(group, yaml.safe_load(file.read_text()))) | {parts[0]}
    phase = {f"finetune.phases.*.{name}" for name in ("until.metric", "until.patience", "lr.*")}
    return frozenset(found | phase | {"finetune.groups", "class_path"})


@cache
def words() -> frozenset[str]:
    """The words of all commands, and the arguments of functions."""
    modules = (importlib.import_module(f"convlens.cli.{name.replace('-', '_')}")
               for name in COMMANDS)  # fmt: skip
    return frozenset(ARGUMENTS).union(*(module.WORDS for module in modules), {"exp", "debug"})


def is_key(name: str) -> bool:
    """Return whether a key with dots exists; values within it may be anything."""
    if name.startswith(OPEN) or name.endswith("_target_"):
        return True
    name = re.sub(r"(?<=\.)(\{\.\.\}|\d+|N)(?=\.|$)", "*", name.rstrip("."))
    pattern = re.escape(name).replace(re.escape(VALUE), ".*").replace("…", ".*")
    pattern = pattern.replace(r"\*", r"[^.]*")
    return any(re.fullmatch(pattern, key) for key in keys())


def named_keys(text: str) -> Iterator[str]:
    """Yield what a text names as keys: ``a.b``, or ``a=``, each with any value."""
    tables = "|".join(sorted({key.partition(".")[0] for key in keys() if "." in key}))
    part = rf"(?:\w+|{re.escape(VALUE)}|…)"
    for found in re.finditer(rf"(?<![\w./{{}}])(?:{tables})(?:\.{part})+(?![\w(])", text):
        if not re.search(r"\.(py|csv|yaml|json|pth|safetensors|safetensor|npy|bin)$", found[0]):
            yield found[0]
    for found in re.finditer(r"(?<![\w.{}…-])([a-z_]+)=", text):
        yield found[1]


def is_known(name: str) -> bool:
    return is_key(name) if "." in name else name in words() or is_key(name)


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("try training.epochs=3 or data.splot=1", ["data.splot"]),
        ("set finetune.phases.{..}.augment=false, or finetune.phases.0.augmented", [
            "finetune.phases.0.augmented"]),
        ("raise looking.secs", ["looking.secs"]),
        ("ckpt=FILE, exp=NAME, prezision=32", ["prezision"]),
    ],
)  # fmt: skip
def test_unknown_keys_are_found(text, strange):
    assert [name for name in named_keys(text) if not is_known(name)] == strange


def test_strings_are_found_as_a_user_reads_them():
    tree = ast.parse('def f(x):\n    """Not this text."""\n    g(f"one {x} two " + "three four")')
    assert list(strings(tree)) == [(3, f"one {VALUE} two three four")]


def test_messages_fit_a_line():
    # tables of help have lines of their own
    long = [f"{m.place}: {len(m.text)}: {m.text}" for m in messages() if len(m.text) > MOST]
    assert not long, "\n".join(long)


def test_messages_use_plain_words():
    odd = [
        f"{m.place}: {ODD.search(m.text)[0]}: {m.text}" for m in messages() if ODD.search(m.text)
    ]
    assert not odd, "\n".join(odd)


def test_messages_name_keys_that_exist():
    wrong = [f"{m.place}: {name}: {m.text}" for m in messages()
             for name in named_keys(m.text) if not is_known(name)]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_messages_name_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = {*COMMANDS, *re.search(r"^TARGETS := (.*)", makefile, re.M)[1].split()}
    known = {"make": targets, "convlens": {*COMMANDS, *TOOLS}}
    wrong = [f"{m.place}: {found[0]}: {m.text}" for m in messages()
             for found in re.finditer(r"`(make|convlens) ([a-z][\w-]*)", m.text)
             if found[2] not in known[found[1]]]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_messages_name_no_target_where_there_may_be_no_makefile():
    """``command_line`` writes make or convlens, whichever was typed."""
    wrong = [f"{m.place}: {m.text}" for m in messages() if re.search(r"`make |\bmake [a-z-]+ \w+=",
             m.text)]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_command_lines_name_commands_and_words_that_exist():
    found = 0
    for folder in (ROOT / "src" / "convlens", ROOT / "callbacks"):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if getattr(getattr(node, "func", None), "id", "") != "command_line":
                    continue
                found += 1
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    assert name.value in COMMANDS, f"{file}:{node.lineno}"
                    module = importlib.import_module(f"convlens.cli.{name.value.replace('-', '_')}")
                    assert {each.arg for each in node.keywords} <= set(module.WORDS)
    assert found >= 8
