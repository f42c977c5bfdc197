"""dmi.Decommit and its grammar."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dmi

DEFAULTS = {
    "when": "lazy",
    "how": "default",
    "delay": 1.0,
    "half_life": 1.0,
    "block": 4096,
    "total": 65536,
    "combine": "and",
    "ratio": 0.1,
    "psi": 10.0,
    "headroom": 0.1,
}


def test_defaults_are_those_of_the_documentation() -> None:
    assert dmi.Decommit().as_dict() == DEFAULTS
    assert dmi.Decommit() == dmi.Decommit.parse("lazy")


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("never", {"when": "never"}),
        ("eager", {"when": "eager"}),
        ("lazy", {}),
        ("lazy:delay=0.1", {"delay": 0.1}),
        ("lazy:delay=0", {"delay": 0.0}),
        ("lazy:how=offer", {"how": "offer"}),
        ("lazy:delay=0.25:how=decommit", {"delay": 0.25, "how": "decommit"}),
        ("decay", {"when": "decay"}),
        ("decay:half_life=5", {"when": "decay", "half_life": 5.0}),
        ("threshold:block=8K", {"when": "threshold", "block": 8192}),
        ("threshold:total=1M", {"when": "threshold", "total": 1 << 20}),
        ("threshold:total=2G", {"when": "threshold", "total": 2 << 30}),
        ("threshold:combine=or", {"when": "threshold", "combine": "or"}),
        ("budget:ratio=0.5", {"when": "budget", "ratio": 0.5}),
        ("pressure:psi=20:headroom=0.2", {"when": "pressure", "psi": 20.0, "headroom": 0.2}),
        ("eager:how=discard", {"when": "eager", "how": "discard"}),
    ],
)
def test_parse_and_write(text: str, changed: dict[str, Any]) -> None:
    policy = dmi.Decommit.parse(text)
    assert policy.as_dict() == {**DEFAULTS, **changed}
    assert dmi.Decommit.parse(str(policy)) == policy
    assert dmi.Decommit.from_dict(policy.as_dict()) == policy


def test_output_names_only_what_is_not_a_default() -> None:
    assert str(dmi.Decommit()) == "lazy"
    assert str(dmi.Decommit(delay=0.1)) == "lazy:delay=0.1"
    assert str(dmi.Decommit("threshold", block=4096, total=65536)) == "threshold"
    assert str(dmi.Decommit("threshold", combine="or")) == "threshold:combine=or"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Lazy",
        "lazy:",
        "lazy:delay",
        "lazy:delay=",
        "lazy:delay=1s",
        "lazy:delay=nan",
        "lazy:delay=inf",
        "lazy:delay=-0.1",
        "lazy:delay=1:delay=",
        "lazy:how=throw",
        "lazy:colour=red",
        "threshold:block=4X",
        "threshold:block=-4K",
        "threshold:block=99999999999999999999999",
        "threshold:combine=xor",
        "budget:ratio=x",
        "lazy,eager",
        "lazy:delay=0.1|1",
        "lazy\0",
        "lazy\n",
        "x" * 10_000,
        "lazy:" + "delay=1:" * 5000,
    ],
)
def test_what_cannot_be_read_says_why(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        dmi.Decommit.parse(text)
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"when": "later"}, ValueError, "when must be one of never"),
        ({"when": 1}, TypeError, "when"),
        ({"how": "gently"}, ValueError, "how must be one of default"),
        ({"combine": "nor"}, ValueError, "combine must be one of and, or"),
        ({"delay": -1}, ValueError, "delay"),
        ({"delay": float("nan")}, ValueError, "delay"),
        ({"delay": "1"}, TypeError, "delay"),
        ({"delay": True}, TypeError, "delay"),
        ({"half_life": float("inf")}, ValueError, "half_life"),
        ({"when": "decay", "half_life": 0}, ValueError, "half_life"),
        ({"when": "pressure", "psi": 101}, ValueError, "psi"),
        ({"when": "lazy", "psi": 50}, ValueError, "psi"),
        ({"when": "never", "delay": 2}, ValueError, "delay"),
        ({"when": "threshold", "block": -1}, ValueError, "block"),
        ({"block": 1 << 60}, ValueError, "block"),
        ({"block": 4096.0}, TypeError, "block"),
        ({"total": "64K"}, TypeError, "total"),
        ({"speed": 1}, TypeError, "speed"),
    ],
    ids=repr,
)
def test_bad_fields_name_the_argument(
    fields: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        dmi.Decommit(**fields)


def test_a_policy_is_frozen_and_hashable() -> None:
    policy = dmi.Decommit(delay=2)
    with pytest.raises(AttributeError):
        policy.delay = 3.0  # type: ignore[misc]
    assert len({policy, dmi.Decommit(delay=2.0), dmi.Decommit()}) == 2


finite = st.floats(min_value=0, max_value=1e6, allow_nan=False, width=64)


@given(
    st.one_of(
        st.builds(lambda delay: {"when": "lazy", "delay": delay}, finite),
        st.builds(
            lambda b, t, c: {"when": "threshold", "block": b, "total": t, "combine": c},
            st.integers(1, 1 << 40),
            st.integers(1, 1 << 40),
            st.sampled_from(["and", "or"]),
        ),
        st.builds(
            lambda half_life: {"when": "decay", "half_life": half_life},
            st.floats(min_value=1e-3, max_value=1e6),
        ),
    ),
    st.sampled_from(["default", "discard", "decommit", "offer"]),
)
def test_every_policy_survives_its_text(fields: dict[str, Any], how: Any) -> None:
    policy = dmi.Decommit(how=how, **fields)
    assert dmi.Decommit.parse(str(policy)) == policy


@given(st.text(max_size=60))
def test_no_text_does_worse_than_a_value_error(text: str) -> None:
    try:
        policies = dmi.expand(text)
    except ValueError:
        return
    assert policies


@given(
    st.lists(
        st.sampled_from(
            ["lazy", ":", "=", "|", ",", "delay", "0.1", "1", "K", "how", "offer", "eager", "block"]
        ),
        max_size=12,
    )
)
def test_no_mixture_of_words_does_worse_than_a_value_error(words: list[str]) -> None:
    with contextlib.suppress(ValueError):
        dmi.expand("".join(words))


def test_expand_multiplies_out() -> None:
    policies = dmi.expand("lazy:delay=0.1|1:how=offer|discard,threshold:block=4K:total=64K")
    assert [str(policy) for policy in policies] == [
        "lazy:delay=0.1:how=offer",
        "lazy:delay=0.1:how=discard",
        "lazy:how=offer",
        "lazy:how=discard",
        "threshold",
    ]
    assert [policy.when for policy in dmi.expand("never, eager ,lazy")] == [
        "never",
        "eager",
        "lazy",
    ]
    assert len(dmi.expand("lazy,lazy:delay=1")) == 1


@pytest.mark.parametrize(
    "text", ["", ",", "lazy,", "lazy,,eager", "lazy:delay=|1", "lazy:delay=1|"]
)
def test_expand_refuses_gaps(text: str) -> None:
    with pytest.raises(ValueError):
        dmi.expand(text)


@pytest.mark.keeps
@pytest.mark.parametrize("how", ["discard", "decommit"])
def test_a_live_heap_changes_its_policy(how: str) -> None:
    with dmi.Heap("never", clock="manual") as heap:
        addresses = [heap.malloc(8000) for _ in range(1000)]
        for address in addresses:
            heap.free(address)
        assert heap.stats().committed > 7_000_000
        heap.advance(100)
        assert heap.stats().committed > 7_000_000, "never gives nothing back"
        heap.decommit = f"eager:how={how}"
        assert (heap.decommit.when, heap.decommit.how) == ("eager", how)
        stats = heap.stats(detail=True)
        stats.check()
        assert stats.committed < 1_000_000, "the change applies to what is free already"
        heap.decommit = dmi.Decommit("never")
        address = heap.malloc(8000)
        heap.free(address)
        heap.validate()


@pytest.mark.keeps
def test_lazy_waits_for_its_delay_and_no_longer() -> None:
    with dmi.Heap("lazy:delay=5", clock="manual") as heap:
        addresses = [heap.malloc(8000) for _ in range(1000)]
        for address in addresses:
            heap.free(address)
        heap.advance(1)
        assert heap.stats().committed > 7_000_000
        for _ in range(10):
            heap.advance(1)
        assert heap.stats().committed < 1_000_000


def test_eager_gives_back_at_once() -> None:
    with dmi.Heap("eager", clock="manual") as heap:
        addresses = [heap.malloc(8000) for _ in range(1000)]
        for address in addresses:
            heap.free(address)
        assert heap.stats().committed < 1_000_000


@pytest.mark.keeps
def test_threshold_keeps_what_is_below_it() -> None:
    with dmi.Heap("threshold:block=4K:total=64K", clock="manual") as heap:
        addresses = [heap.malloc(8000) for _ in range(1000)]
        for address in addresses:
            heap.free(address)
        assert heap.stats().committed < 1_000_000
    with dmi.Heap("threshold:block=4K:total=1G", clock="manual") as heap:
        addresses = [heap.malloc(8000) for _ in range(1000)]
        for address in addresses:
            heap.free(address)
        assert heap.stats().committed > 7_000_000
        reasons = heap.stats(detail=True).reasons
        assert reasons is not None
        assert reasons["total_threshold"] > 0
