"""Decommit policies: when a free page goes back to the system, and how.

One grammar serves the command line, the environment and this module:

    when{:key=value}                   lazy:delay=0.1:how=offer
    several, separated by commas       never,eager,lazy
    alternatives of a value            lazy:delay=0.1|1|10

The library itself reads and writes single policies; only lists and alternatives are taken apart
here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from dmi import _decommit
from dmi._records import PolicyFields

__all__ = ["Decommit", "expand"]

# Written by tools/generate.py, as is the line of Decommit that names them.
When = Literal["never", "eager", "lazy", "decay", "threshold", "budget", "pressure"]
How = Literal["default", "discard", "decommit", "offer"]
Combine = Literal["and", "or"]

# In the order of dmi_when, dmi_how and combine_or, so that an index is the C value.
WHENS: tuple[When, ...] = get_args(When)
HOWS: tuple[How, ...] = get_args(How)
COMBINES: tuple[Combine, ...] = get_args(Combine)


@dataclass(frozen=True, slots=True)
class Decommit:
    """A policy. A parameter that does not belong to `when` is a ValueError.

    when       never, eager, lazy, decay, threshold, budget or pressure
    how        discard, decommit, offer, or default: discard on Linux, decommit where the system
               does not overcommit
    delay      lazy: seconds that a page stays free before it is given back
    half_life  decay: seconds in which half of the retained free pages go
    block      threshold: bytes; a free block this large ...
    total      threshold: bytes; ... and/or this much free in total
    combine    threshold: "and" or "or"
    ratio      budget: retained bytes allowed, as a fraction of busy
    psi        pressure: percent of "some avg10" in the system's pressure file
    headroom   pressure: fraction of the memory limit that should stay unused

    str() gives the text form, which names only what is not a default; parse() reads it.
    ValueError names a bad value and what is accepted, TypeError a bad type.
    """

    when: When = "lazy"
    how: How = "default"
    delay: float = 1.0
    half_life: float = 1.0
    block: int = 4096
    total: int = 65536
    combine: Combine = "and"
    ratio: float = 0.1
    psi: float = 10.0
    headroom: float = 0.1

    def __post_init__(self) -> None:
        for name, accepted in (("when", WHENS), ("how", HOWS), ("combine", COMBINES)):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
            if value not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")
        for name in ("delay", "half_life", "ratio", "psi", "headroom"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number, 0 or more, not {value}")
            object.__setattr__(self, name, float(value))
        for name in ("block", "total"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int (bytes), not {type(value).__name__}")
            if not 0 <= value < 1 << 47:
                raise ValueError(f"{name} must be between 0 and 2**47 - 1 bytes, not {value}")
        # The library has the last word on ranges, and on which parameter belongs to which policy.
        changed = [
            f":{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "when" and getattr(self, field.name) != field.default
        ]
        _decommit.policy_parse(self.when + "".join(changed))

    @classmethod
    def parse(cls, text: str) -> Decommit:
        """Read one policy, such as "lazy:delay=0.1:how=offer". ValueError says what is wrong."""
        if not isinstance(text, str):
            raise TypeError(f"a policy must be a str, not {type(text).__name__}")
        return cls.from_native(_decommit.policy_parse(text))

    @classmethod
    def of(cls, policy: str | Decommit, argument: str = "decommit") -> Decommit:
        """Accept what Heap() and its decommit property accept: a Decommit or its text."""
        if isinstance(policy, Decommit):
            return policy
        if not isinstance(policy, str):
            raise TypeError(
                f"{argument} must be a dmi.Decommit or a str such as 'lazy:delay=0.5', "
                f"not {type(policy).__name__}"
            )
        try:
            return cls.parse(policy)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from None

    @classmethod
    def from_native(cls, native: PolicyFields) -> Decommit:
        """From the fields of the C struct."""
        policy = object.__new__(cls)  # the library has read and checked it
        words = {
            "when": WHENS[native.when],
            "how": HOWS[native.how],
            "combine": COMBINES[native.combine],
        }
        for name, value in {**native._asdict(), **words}.items():
            object.__setattr__(policy, name, value)
        return policy

    def native(self) -> PolicyFields:
        """The fields of the C struct."""
        return PolicyFields(
            WHENS.index(self.when),
            HOWS.index(self.how),
            self.delay,
            self.half_life,
            self.block,
            self.total,
            COMBINES.index(self.combine),
            self.ratio,
            self.psi,
            self.headroom,
        )

    def as_dict(self) -> dict[str, str | float | int]:
        """All parameters, defaults included, for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, str | float | int]) -> Decommit:
        """The inverse of as_dict(). Unknown keys are a TypeError."""
        return cls(**cast("dict[str, object]", values))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return _decommit.policy_format(self.native())


def expand(text: str) -> list[Decommit]:
    """Every policy of a list, alternatives multiplied out, in order and without repeats.

    "lazy:delay=0.1|1,eager" gives three. ValueError names the policy that cannot be read.
    """
    if not isinstance(text, str):
        raise TypeError(f"a list of policies must be a str, not {type(text).__name__}")
    policies: dict[Decommit, None] = {}
    for item in text.split(","):
        if not item.strip():
            raise ValueError(f"an empty policy in {text!r}; accepted: {', '.join(WHENS)}")
        choices: list[list[str]] = []
        for part in item.strip().split(":"):
            key, equals, values = part.rpartition("=")
            choices.append([f"{key}{equals}{value}" for value in values.split("|")])
        for combination in itertools.product(*choices):
            policies[Decommit.parse(":".join(combination))] = None
    return list(policies)
