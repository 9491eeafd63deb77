"""convlens: train an image classifier and watch what it learns while it learns it."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Explainer", "Explanation", "load", "wrap"]


def __getattr__(name: str):
    # the notebook's words need torch; the commands that do not shall not wait for it
    if name in __all__:
        from convlens.experiment import explainer

        return getattr(explainer, name)
    raise AttributeError(f"module 'convlens' has no attribute {name!r}")
