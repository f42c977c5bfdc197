"""What stays after a peak: copied onto pages of its own; and CPython's free lists."""

from __future__ import annotations

import sys

import pytest

from tests.python.test_python_contexts import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")


def test_survivors_made_in_a_context_lie_close() -> None:
    run("""
        import random
        random.seed(1)
        survivors, others = heap("survivors", fresh=True), []
        kept = []
        for n in range(30000):
            if random.random() < 0.1:
                with survivors: kept.append({"id": n, "name": f"name {n}"})
            else:
                others.append({"id": n, "name": f"name {n}"})
        del others
        row = usage().of("survivors")
        assert row.page_bound <= 1.1 * row.busy, row
    """)


def test_a_copy_of_what_stays_lies_close_and_the_peak_goes() -> None:
    run("""
        import random
        random.seed(1)
        peak = [{"id": n, "name": f"name {n}", "v": n / 3, "t": (n, [n])} for n in range(30000)]
        kept = random.sample(peak, 3000)
        table = dmi.python.copy_into("survivors", kept)
        assert table == kept and table is not kept
        places = [dmi.python.context_of(each) for each in (table, *table)]
        assert places.count("survivors") == len(places), places[:9]
        assert table[5]["id"] is not kept[5]["id"] and table[5]["name"] is not kept[5]["name"]
        before = usage().of("outside").page_bound
        del peak, kept
        gc.collect()
        row = usage().of("survivors")
        assert row.page_bound <= 1.1 * row.busy, row
        assert usage().of("outside").page_bound < before / 5
        shared = [["one"]] * 3
        copied = dmi.python.copy_into("survivors", shared)
        assert copied == shared and copied[0] is copied[1] is not shared[0]
        try: dmi.python.copy_into("survivors", lambda: 1)
        except Exception as error: assert "pickle" in str(error).lower(), error
        else: raise SystemExit("copied a function")
        assert dmi.python.current() is None
    """)


def test_free_lists_carry_objects_over_unless_they_are_cleared() -> None:
    run("""
        def load(): return [({"a": n / 3}, [n], (n, n + 1)) for n in range(1000)]
        def strays(rows, name):
            places = [dmi.python.context_of(part) for row in rows for part in row]
            return sum(place != name for place in places)
        load()
        with heap("plain"): plain = load()
        assert strays(plain, "plain") > 500
        load()
        with heap("fresh", fresh=True): fresh = load()
        assert strays(fresh, "fresh") == 0
        gc.freeze()
        dmi.python.clear_free_lists()
        assert gc.get_freeze_count()
        gc.unfreeze()
        circle = []
        circle.append(circle)
        del circle
        dmi.python.clear_free_lists()
        assert gc.collect() >= 1
        try: heap("x", fresh=1)
        except TypeError: pass
        else: raise SystemExit("fresh=1")
    """)
