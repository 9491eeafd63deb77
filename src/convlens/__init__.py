"""convlens: train an image classifier and watch what it learns while it learns."""

from __future__ import annotations

__all__ = ["Explainer", "Explanation", "Maps", "StoredRun", "load", "open_run", "wrap"]


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("convlens")
    # importing torch takes seconds, and commands that do not need it must not wait for it
    if name in __all__:
        from convlens import api

        return getattr(api, name)
    raise AttributeError(f"module 'convlens' has no attribute {name!r}")
