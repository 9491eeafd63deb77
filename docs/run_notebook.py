"""Run the cells of docs/notebook.ipynb in one namespace and store their outputs.

.venv/bin/python docs/run_notebook.py           (needs no Jupyter)
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent / "notebook.ipynb"


def execute(notebook: dict) -> dict:
    """Run the code cells of a notebook and return it with the new outputs.

    Printed text and the value of a cell's last expression are kept, as Jupyter does; a value with
    ``_repr_html_`` also in HTML.

    Raises:
        Exception: any exception that a cell raises.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
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
    """Run a cell; return the value of its last line, or None if that is no expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), space)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last else None


def _shown(value: Any, number: int) -> dict:
    data = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
        data["text/plain"] = [str(value)]
    return {
        "output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data,
    }  # fmt: skip


def main() -> None:
    notebook = execute(json.loads(NOTEBOOK.read_text()))
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size // 1000} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
