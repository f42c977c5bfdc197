"""An installed dmi works: run by the packaging check with the Python of a clean environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dmi

package = Path(dmi.__file__).parent
assert "site-packages" in package.parts, f"imported from {package}"
assert (Path(dmi.get_include()) / "dmi" / "dmi.h").is_file()
assert Path(dmi.get_library_path()).parent == Path(dmi.get_library_dirs()[0])
assert Path(dmi.get_library_path()).is_file()
examples = Path(dmi.get_examples())
assert package in examples.parents, f"the examples are in {examples}"
for name in ("second_order_leak.py", "redis-peak.dmi.zst", "embed"):
    assert (examples / name).exists(), f"the example {name} is not installed"
for name in ("py.typed", "_core.pyi", "cdmi.pxd"):
    assert (package / name).is_file(), f"{name} is not installed"

with dmi.Heap(decommit="eager", name="smoke", clock="manual") as heap:
    blocks = [heap.alloc(100) for _ in range(1000)]
    for number, block in enumerate(blocks):
        memoryview(block)[0] = number % 256
    assert all(bytes(block)[0] == number % 256 for number, block in enumerate(blocks))
    heap.stats(detail=True).check()
    assert heap.stats().busy >= 100_000
    assert heap in dmi.heaps()
    assert f"{heap.handle:x}" in heap.summary()
    assert dmi.lib.dmi_heap_valid(dmi.ffi.cast("void *", heap.handle)) == 1
    for block in blocks:
        block.free()
    heap.trim()
    assert heap.stats().busy == 0

answer = subprocess.run(
    [sys.executable, "-m", "dmi", "env", "--json"], check=True, capture_output=True, text=True
)
assert json.loads(answer.stdout)["dmi"] == dmi.__version__
print(f"dmi {dmi.__version__} works in {sys.prefix}")
