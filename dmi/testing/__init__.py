"""Tests that fail when memory does not come back: what the pytest plugin measures and judges.

``Watch`` measures heaps before and after some work, ``Limits`` judges what was found. The plugin
(`dmi.testing.plugin`) applies both to marked tests; other test runners can call them:

>>> watch = Watch([heap])
>>> work()
>>> Limits(max_retained="64 KiB").broken(watch.found())
[]
"""

from __future__ import annotations

from dmi.testing._limits import Limits
from dmi.testing._watch import Found, NotOnDmiError, Watch, heaps_of_process

__all__ = ["Found", "Limits", "NotOnDmiError", "Watch", "heaps_of_process"]
