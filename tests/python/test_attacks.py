"""What an attacker gets: tests/attacks on both tiers, against what docs/security.md says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmi

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc"),
    pytest.mark.timeout(600),
]

SOURCE = Path(__file__).parents[1] / "attacks" / "attacks.c"
FEW = [48, 1024, 200000]
MANY = [16, 32, 64, 80, 112, 128, 144, 208, 256, 320, 448, 512, 640, 896, 1536, 2048, 2560, 3584]
MANY += [4096, 5120, 7168, 8192, 10240, 14336, 16384, 20480, 28672, 32768, 40000, 100000, 500000]
MANY += [2000000, 4194304]

# What is left, by tier: attacks that may end in an address or a block for the attacker; nothing
# else may. A free after the block was handed out again looks like its new owner's. Whoever reads
# what is freed is outside the default tier's promise.
EXPLOITABLE = {
    "off": {
        "double_after_reuse",
        "read_a_link_and_forge_one",
        "read_both_words_and_forge_them",
        "read_two_words_and_copy_them",
        "read_a_link_and_copy_it",
        "read_the_last_link_for_the_key",
        "read_a_mark_and_put_it_back",
    },
    "on": set(),
}
# Wrong frees that each tier finds at the latest when the block would be handed out again.
FOUND = [
    "double_at_once",
    "double_with_one_between",
    "double_by_another_thread",
    "interior_by_16",
    "misaligned_by_8",
    "free_of_a_global",
    "free_of_no_address",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("attacks") / "attacks"
    command = ["gcc", "-O1", "-fno-builtin", "-pthread", str(SOURCE), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def outcomes(program: Path, hardened: str, sizes: list[int]) -> dict[str, dict[str, str]]:
    """{attack: {size: outcomes with few and with many blocks}}."""
    environment = os.environ | {
        "LD_PRELOAD": dmi.get_preload_path(),
        "DMI_OPTIONS": f"hardened={hardened}",
    }
    done = subprocess.run(
        [str(program), "all", *map(str, sizes)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: dict(cell.split(":") for cell in cells) for name, *cells in lines}


def judge(table: dict[str, dict[str, str]], hardened: str) -> None:
    assert len(table) >= 50
    exploitable = {name for name, row in table.items() if "X" in "".join(row.values())}
    assert exploitable <= EXPLOITABLE[hardened]
    assert not [name for name, row in table.items() if "?" in "".join(row.values())]
    for name in FOUND:
        for size, cell in table[name].items():
            assert set(cell) <= set("fh-" if hardened == "off" else "f-"), (name, size, cell)


# What stays on a list decides what an attack gets: the table is of the library as it is shipped.
@pytest.mark.keeps
@pytest.mark.parametrize("hardened", ["off", "on"])
def test_attacks_get_no_more_than_is_said(program: Path, hardened: str) -> None:
    judge(outcomes(program, hardened, FEW), hardened)


@pytest.mark.long
@pytest.mark.parametrize("hardened", ["off", "on"])
def test_attacks_on_other_sizes(program: Path, hardened: str) -> None:
    judge(outcomes(program, hardened, MANY), hardened)


def test_the_bad_free_is_named(program: Path) -> None:
    environment = os.environ | {"LD_PRELOAD": dmi.get_preload_path(), "ATTACKS_WHY": "1"}
    for attack, words in (
        ("double_at_once", "the block is free already"),
        ("free_of_a_global", "no heap owns this address"),
    ):
        done = subprocess.run(
            [program, attack, "64"], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{attack} 64:ff\n"
        assert words in done.stderr
