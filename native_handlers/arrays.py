"""`np`: numpy, loaded when something of it is used first.

A server whose volumes are small or empty needs none of it before it serves, and loading it takes a tenth of such a
start. `supervisor.assembly.store` loads it in a thread as soon as the server serves and has a volume.

A module that imports `np` from here uses nothing of it while it is loaded itself; a test holds that.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["load_arrays", "np"]


def load_arrays() -> None:
    """Loads numpy, if it is not loaded. Raises ImportError."""
    importlib.import_module("numpy")


if not TYPE_CHECKING:

    class _Numpy(ModuleType):
        """Takes each name from numpy once, and has it from then on."""

        def __getattr__(self, name: str) -> object:
            # Any thread may come first: the import system lets one load, and the others wait.
            value = getattr(importlib.import_module("numpy"), name)
            setattr(self, name, value)
            return value

    np = _Numpy("numpy")
