"""Results on a narrow terminal: nothing is wider than it, and no word is lost."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmi.cli._fold import fold

pytestmark = pytest.mark.reads

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = (ROOT / "tests/golden/heap-summaries.txt").read_text()
SWEEP = """\
policy               mean retained  retained  committed  / page bound  CPU s
-------------------------------------------------------------------------------
never                         2.33     57.98      57.99      2969.000  0.028  *
threshold:block=64K           0.55      0.48       0.48        24.800  0.036  *
MiB, at the end where not a mean; * no other policy is better in both mean retained and CPU time
"""


def words(text: str) -> set[str]:
    return {word for word in text.split() if word.strip("-")}


def too_wide(text: str, width: int) -> list[str]:
    return [line for line in text.split("\n") if len(line) > width]


@pytest.mark.parametrize("width", [40, 60, 79])
@pytest.mark.parametrize("text", [SUMMARY, SWEEP], ids=["heap", "sweep"])
def test_tables_are_shown_in_groups_of_columns(text: str, width: int) -> None:
    folded = fold(text, width)
    assert not too_wide(folded, width)
    assert words(folded) == words(text)


def test_the_first_column_leads_each_group() -> None:
    folded = fold(SWEEP, 50)
    assert folded.count("threshold:block=64K") == 2
    assert folded.count("57.99") == 1
    assert re.search(r"^never +2\.33", folded, re.MULTILINE)
    assert re.search(r"^never +57\.99 +2969\.000 +0\.028", folded, re.MULTILINE)


@pytest.mark.parametrize("text", [SUMMARY, SWEEP])
def test_what_fits_stays_as_it_is(text: str) -> None:
    assert fold(text, 200) == text


@given(
    st.lists(
        st.text(st.sampled_from("ab -7,"), max_size=60).map(str.rstrip), min_size=1, max_size=12
    ),
    st.integers(20, 50),
)
def test_no_word_is_lost(lines: list[str], width: int) -> None:
    text = "\n".join(lines)
    assert words(fold(text, width)) == words(text)


def test_a_terminal_is_asked_for_its_width() -> None:
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    command = [sys.executable, "-m", "dmi", "layers"]
    child = subprocess.Popen(command, stdout=slave, stdin=slave)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert child.wait() == 0
    os.close(master)
    text = seen.decode().replace("\r\n", "\n")
    assert "physical memory" in text
    assert not too_wide(text, 50)
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert too_wide(piped, 50)
