"""What is in swap is not read, and not taken for retained."""

from __future__ import annotations

import dmi
from dmi._layers import Layer, Part

MIB = 1 << 20


def test_what_was_not_looked_at_is_not_retained() -> None:
    part = Part("pymalloc", 100 * MIB, 20 * MIB, 40 * MIB, 70 * MIB)
    assert part.retains == 10 * MIB
    assert part.as_dict()["unknown"] == 70 * MIB
    glibc = Part("glibc main arena", 30 * MIB, 5 * MIB)
    layers = dmi.Layers(1, (Layer("1a", "custom libraries", (part, glibc)),))
    # 25 MiB are known to be retained; 70 may be.
    assert layers.stuck is None
    assert layers.unknown is not None
    assert "what was not looked at of pymalloc" in str(layers)
    assert "of it not looked at" in str(layers)
    small = Part("pymalloc", 100 * MIB, 95 * MIB, 100 * MIB, 4 * MIB)
    layers = dmi.Layers(1, (Layer("1a", "custom libraries", (small, glibc)),))
    assert layers.stuck == glibc
