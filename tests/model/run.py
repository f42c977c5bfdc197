"""Run the models (take and repair, hand-over, marks, favoured owner) and their mutations in spin.

A model must pass with its whole state space searched; each mutation must fail, which shows that
the model can see that mistake. Prints the number of states. Needs spin and a C compiler.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MODELS = {
    "take.pml": ("NO_GONE", "TRUST_LINK", "WRITE_HEAD", "NO_PIN", "HEAD_IS_SECOND"),
    "mark.pml": (
        "CLEAR_FIRST",
        "MARK_LATE",
        "LINK_LATE",
        "NO_MARK",
        "NO_LOOK",
        "NO_CHECK",
        "TAKE_ANY",
        "NO_LOST",
        "ZERO_IS_END",
    ),
    "hand_over.pml": (
        "DROP_MOVED",
        "TRUST_LIST",
        "CLEAR_FLAG",
        "IGNORE_FLAG",
        "NEXT_LATE",
        "NO_LOCK",
    ),
    "favour.pml": (
        "NO_BARRIER",
        "BARRIER_FIRST",
        "NO_WAIT",
        "LOOK_FIRST",
        "NO_LOCK",
        "STAY_FAVOURED",
        "TAKE_LATE",
    ),
}


def search(model: str, defines: list[str]) -> tuple[int, str]:
    """Return the states stored and spin's first error, "" when there is none."""
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(HERE / model, work)
        subprocess.run(
            ["spin", *defines, "-a", model], cwd=work, check=True, stdout=subprocess.DEVNULL
        )
        compiler = os.environ.get("CC", "cc")
        command = [
            compiler,
            "-O2",
            "-w",
            "-DSAFETY",
            "-DCOLLAPSE",
            "-DMEMLIM=2048",
            "-o",
            "pan",
            "pan.c",
        ]
        subprocess.run(command, cwd=work, check=True)
        done = subprocess.run(
            ["./pan", "-m1000000", "-w24"], cwd=work, check=True, text=True, capture_output=True
        )
    error = re.search(r"^pan:\d+: (.*)$", done.stdout, re.MULTILINE)
    states = re.search(r"(\d+) states, stored", done.stdout)
    if (
        states is None
        or "max search depth too small" in done.stdout
        or "out of memory" in done.stdout
    ):
        raise RuntimeError(done.stdout + done.stderr)
    if error is None and ("errors: 0" not in done.stdout or "Search not completed" in done.stdout):
        raise RuntimeError(done.stdout)
    return int(states.group(1)), error.group(1) if error else ""


def main() -> int:
    """Return 0 when every model passes and every mutation fails."""
    bad = False
    for model, mutations in MODELS.items():
        states, error = search(model, [])
        print(f"{model}: {states} states, {error or 'no error'}")
        bad |= bool(error)
        for mutation in mutations:
            states, error = search(model, [f"-D{mutation}"])
            print(f"{model} with {mutation}: {error or 'NO ERROR FOUND'} ({states} states)")
            bad |= not error
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
