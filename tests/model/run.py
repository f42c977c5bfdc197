"""Run the model of take and repair, and each of its mutations, through spin.

The model must pass with its whole state space searched; each mutation must fail, which shows that the model
can see that mistake. Prints the number of states. Needs spin and a C compiler.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).with_name("take.pml")
MUTATIONS = ("NO_GONE", "TRUST_LINK", "WRITE_HEAD", "NO_PIN", "HEAD_IS_SECOND")


def search(defines: list[str]) -> tuple[int, str]:
    """Return the states stored and spin's first error, "" when there is none."""
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(MODEL, work)
        subprocess.run(["spin", *defines, "-a", MODEL.name], cwd=work, check=True, stdout=subprocess.DEVNULL)
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O2", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2048", "-o", "pan", "pan.c"]
        subprocess.run(command, cwd=work, check=True)
        done = subprocess.run(["./pan", "-m1000000", "-w24"], cwd=work, check=True, text=True, capture_output=True)
    error = re.search(r"^pan:\d+: (.*)$", done.stdout, re.MULTILINE)
    states = re.search(r"(\d+) states, stored", done.stdout)
    if states is None or "max search depth too small" in done.stdout or "out of memory" in done.stdout:
        raise RuntimeError(done.stdout + done.stderr)
    if error is None and ("errors: 0" not in done.stdout or "Search not completed" in done.stdout):
        raise RuntimeError(done.stdout)
    return int(states.group(1)), error.group(1) if error else ""


def main() -> int:
    """Return 0 when the model passes and every mutation fails."""
    states, error = search([])
    print(f"take.pml: {states} states, {error or 'no error'}")
    bad = bool(error)
    for mutation in MUTATIONS:
        states, error = search([f"-D{mutation}"])
        print(f"take.pml with {mutation}: {error or 'NO ERROR FOUND'} ({states} states)")
        bad |= not error
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
