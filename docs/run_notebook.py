"""Run the cells of docs/notebook.ipynb in one namespace and store their outputs.

.venv/bin/python docs/run_notebook.py           (needs no Jupyter; a minute)
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent / "notebook.ipynb"


def execute(notebook: dict) -> dict:
    """Run the code cells of a notebook in the current folder; return it with the new outputs.

    Printed text and the value of a cell's last expression are kept, as Jupyter does; a value with
    ``_repr_html_`` also in HTML. A line that begins with ``!`` is a command.

    Raises:
        Exception: any exception that a cell raises, or a command that fails.
    """
    space: dict[str, Any] = {"__name__": "__main__", "_run_command": _run_command}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        cell["execution_count"], cell["outputs"] = number, []
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _run("".join(cell["source"]), space)
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": lines})
        if value is not None:
            cell["outputs"].append(_shown(value, number))
    return notebook


def _run(source: str, space: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last expression, or None if it ends otherwise."""
    lines = (
        f"_run_command({line[1:]!r})" if line.startswith("!") else line
        for line in source.splitlines()
    )
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), space)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last else None


def _run_command(line: str) -> None:
    """Run a command of this environment, and print what it prints, without the progress."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        shlex.split(line), env={**os.environ, "PATH": programs}, encoding="utf-8",
        capture_output=True, check=False,
    )  # fmt: skip
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(f"{line}: {done.stderr}")


def _shown(value: Any, number: int) -> dict:
    data = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
        data["text/plain"] = [str(value)]
    return {
        "output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data,
    }  # fmt: skip


def main() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        execute(notebook)
    for cell in notebook["cells"]:
        if "varies" in cell["metadata"].get("tags", ()):
            cell["outputs"] = []  # seconds, and numbers of this machine
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    NOTEBOOK.write_text(text, encoding="utf-8")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size // 1000} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
