"""Hooks that mkdocs calls when it builds the site: they add pages and remove links to sources.

The home page is README.md. Each public class and function has a page with its docstring.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
# package -> its __init__.py, whose __all__ lists the public names
PUBLIC = {
    "convlens": ROOT / "src" / "convlens" / "__init__.py",
    "convlens.callbacks": ROOT / "callbacks" / "__init__.py",
    "convlens.explain": ROOT / "src" / "convlens" / "explain" / "__init__.py",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def public_names(package: str) -> dict[str, str]:
    """Return each public name of a package and the full name of the object."""
    tree = ast.parse(PUBLIC[package].read_text(encoding="utf-8"))
    origin, public = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            origin |= {
                each.asname or each.name: f"{node.module}.{each.name}" for each in node.names
            }
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = ast.literal_eval(node.value)
    return {name: origin.get(name, f"{package}.api.{name}") for name in sorted(public)}


def on_config(config):
    """Add the API reference to the navigation, with a section for each package."""
    sections = [
        {package: [{name: _page_of(package, name)} for name in public_names(package)]}
        for package in PUBLIC
    ]
    config.nav.insert(-1, {"API reference": sections})
    return config


def _page_of(package: str, name: str) -> str:
    return f"reference/{package}.{name}.md"


def on_files(files, config):
    """Add the pages that are not files in docs/."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    for package in PUBLIC:
        for name, origin in public_names(package).items():
            content = f"---\ntitle: {name}\n---\n\n::: {origin}\n"
            files.append(File.generated(config, _page_of(package, name), content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links to sources and tests, which are not on the site, into plain text."""
    here = ROOT / "docs" / page.file.src_uri

    def keep_or_unlink(link: re.Match) -> str:
        is_image, text, target, _ = link.groups()
        if is_image or ":" in target:
            return link[0]
        uri = os.path.relpath(os.path.normpath(here.parent / target), ROOT / "docs")
        return link[0] if files.get_file_from_path(Path(uri).as_posix()) else text

    return _LINK.sub(keep_or_unlink, markdown)
