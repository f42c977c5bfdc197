"""Python's own objects on dmi, at any time.

>>> import dmi
>>> heap = dmi.python.install()
>>> with dmi.python.heap("import"):
...     rows = [{"id": n} for n in range(1000)]
>>> print(dmi.python.usage())

Importing this package changes nothing; install() does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmi.python import middleware
    from dmi.python._contexts import LimitError, Usage, UsageTable, context_of, current, heap, usage
    from dmi.python._free_lists import clear_free_lists
    from dmi.python._install import InstallError, install, is_installed
    from dmi.python._survivors import copy_into
    from dmi.python._types import Holder, TypeRow, TypeTable, by_type, holders

__all__ = [
    "install",
    "is_installed",
    "InstallError",
    "heap",
    "LimitError",
    "current",
    "context_of",
    "usage",
    "Usage",
    "UsageTable",
    "copy_into",
    "clear_free_lists",
    "middleware",
    "by_type",
    "TypeRow",
    "TypeTable",
    "holders",
    "Holder",
]

_LATER = {
    "install": "_install",
    "is_installed": "_install",
    "InstallError": "_install",
    "heap": "_contexts",
    "LimitError": "_contexts",
    "current": "_contexts",
    "context_of": "_contexts",
    "usage": "_contexts",
    "Usage": "_contexts",
    "UsageTable": "_contexts",
    "copy_into": "_survivors",
    "clear_free_lists": "_free_lists",
    "middleware": "middleware",
    "by_type": "_types",
    "TypeRow": "_types",
    "TypeTable": "_types",
    "holders": "_types",
    "Holder": "_types",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'dmi.python' has no attribute {name!r}")
        module = importlib.import_module(f"dmi.python.{_LATER[name]}")
        found = module if _LATER[name] == name else getattr(module, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
