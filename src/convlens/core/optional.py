"""Packages that only some configs need."""

from __future__ import annotations

import importlib
from types import ModuleType

from convlens.core.errors import UserError


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: full name of the module.
        extra: the extra of convlens that installs the package.
        purpose: what needs the package; the beginning of the error.

    Raises:
        UserError: the package is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        package, reason = module.partition(".")[0], str(error).strip().partition("\n")[0]
        raise UserError(
            f"{purpose} needs {package} ({reason}): pip install 'convlens[{extra}]'"
        ) from None
