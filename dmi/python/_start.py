"""Run by the start-up file of a virtual environment (`dmi python enable`): Python's objects on dmi.

The file runs this by its path, and what it needs is loaded by path as well: a program that never
imports dmi does not pay for the import. DMI_PYTHON=0 leaves a run as it would be without, and so
does PYTHONMALLOC where it names an allocator: whoever set it wants that one.
"""

from __future__ import annotations

import os
import sys


def _load(name: str) -> object:
    """A module of this folder, without its package."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from importlib.util import module_from_spec, spec_from_file_location

    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow
    for suffix in (*EXTENSION_SUFFIXES, ".py"):
        path = os.path.join(folder, name + suffix)  # noqa: PTH118
        if not os.path.isfile(path):  # noqa: PTH113
            continue
        spec = spec_from_file_location(f"dmi.python.{name}", path)
        if spec and spec.loader:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[spec.name] = module
            return module
    raise ImportError(f"{name} is missing beside {__file__}: install dmi-heap again")


def start() -> str | None:
    """Install; why not, if not."""
    checks: object = _load("_checks")
    if reason := checks.not_here():  # type: ignore[attr-defined]
        return str(reason)
    hook: object = _load("_hook")
    if hook.installed():  # type: ignore[attr-defined]
        return None
    # Of a preloaded dmi malloc is dmi's.
    asked = checks.asked_for()  # type: ignore[attr-defined]
    if asked and not (asked == "malloc" and hook.is_preloaded()):  # type: ignore[attr-defined]
        return None
    domains = ("mem", "obj")
    if reason := checks.refusal(hook, domains):  # type: ignore[attr-defined]
        return str(reason)
    hook.put(domains, hook.make_heap(b"python"), checks.is_traced())  # type: ignore[attr-defined]
    return None


def main() -> None:
    """Install, or say on standard error why not; never in the way of the program."""
    # Python reads the start-up files of a virtual environment twice.
    if os.environ.get("DMI_PYTHON") == "0" or "dmi.python._hook" in sys.modules:
        return
    try:
        reason = start()
    except Exception as error:
        if "subinterpreter" in str(error):
            return  # the process's first interpreter has seen to it: allocators are for all
        reason = f"{type(error).__name__}: {error}"
    if reason and sys.stderr:
        print(f"dmi.python: objects stay where they are: {reason}", file=sys.stderr)


if __name__ == "dmi.python._start by path":
    main()
