"""The figures that a module draws, for tests of what is on them."""

from __future__ import annotations

from types import ModuleType

from convlens.draw import figure


def keep_figures(monkeypatch, module: ModuleType) -> list:
    """Return the list to which every figure is added that ``module`` draws from now on."""
    found = []

    def keep(drawn, *words):
        found.append(drawn)
        return figure.draw_figure(drawn, *words)

    monkeypatch.setattr(module, "draw_figure", keep)
    return found
