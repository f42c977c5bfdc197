"""A newcomer's run through README.md: every command in it is run, with real things for its names.

    python tools/readme_run.py FOLDER

FOLDER gets a virtual environment with dmi in it, as README.md says. Needs the source tree and the
Python that runs this, nothing else. A command in README.md that this file cannot run is a failure,
so that none is left out. The status is 1 when one failed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python3 -c 'print(sum(len(str(i)) for i in range(10000)))'"
RECORDING = ROOT / "examples/sqlite-vacuum.dmi.zst"
KEPT = """
import sys, dmi
heap = dmi.Heap("never", name="kept")
blocks = [heap.malloc(5000) for _ in range(4000)]
open(sys.argv[1], "w").write(dmi.summary())
for block in blocks[::2]:
    heap.free(block)
open(sys.argv[2], "w").write(dmi.summary())
dmi.snapshot(blocks=True).save(sys.argv[3])
"""
# A verdict's statuses: nothing found, a finding, not enough to judge.
STATUSES = {"doctor": (0, 1, 2)}


def named(text: str) -> list[str]:
    """The commands that README.md names, each once, in its order."""
    prose = re.sub(r"^( {4}|```).*?$", "", text, flags=re.MULTILINE)
    shown = re.findall(r"^ {4}(dmi .*)$", text, flags=re.MULTILINE)
    found = [" ".join(code.split()) for code in re.findall(r"`(dmi [^`]+)`", prose)]
    return list(dict.fromkeys([*shown, *found]))


def runnable(command: str, names: dict[str, str]) -> str:
    """The command with real things in place of its names."""
    words = command.split()[1]
    if command == f"dmi {words}" and not words.startswith("-"):
        return f"{command} --help"
    if "| man" in command and not shutil.which("man"):
        command = command.partition("|")[0]
    command = command.replace("[", "").replace("]", "").replace("FILE…", "FILE")
    command = command.replace("--policies …", "--policies never,lazy")
    kinds = {"replay": "RECORDING", "sweep": "RECORDING", "report": "RECORDING", "blame": "PROFILE"}
    kind = kinds.get(words, "SAVED")
    if words in ("run", "snapshot"):
        kind = "NEW"
    return re.sub(
        r"\b(PROGRAM|RECORDING|FILE|CORE|COMMAND|N|before\.txt|after\.txt|report\.html)\b",
        lambda name: names[kind if name[0] == "FILE" else name[0]],
        command,
    )


def run(command: str, folder: Path, statuses: tuple[int, ...] = (0,)) -> bool:
    print(f"$ {command}", flush=True)
    env = {"PATH": f"{folder}/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    lines = done.stdout.splitlines()
    print(textwrap.indent("\n".join(lines[-12:]), "  "), flush=True)
    if done.returncode in statuses and "Traceback" not in done.stdout:
        return True
    print(f"  FAILED with {done.returncode}", flush=True)
    return False


def install(text: str, folder: Path) -> bool:
    """What README.md says about installing, line by line, for this tree."""
    lines = re.findall(r"^ {4}(python3 -m venv .*|.*pip install .*)$", text, flags=re.MULTILINE)
    extras = re.findall(r"`(pip install '\.\[[a-z,]+\]')`", text)
    if len(lines) < 2 or len(extras) != 1:
        print("README.md says no more how to install")
        return False
    made = [line.replace(" env", f" {folder}/env") for line in lines]
    made = [line.replace("env/bin/pip", f"{folder}/env/bin/pip") for line in [*made, *extras]]
    return all(run(f"cd {ROOT}; {line}", folder) for line in made)


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "README.md").read_text()
    if not install(text, folder):
        return 1
    sleeper = subprocess.Popen(
        [str(folder / "env/bin/python"), "-c", "import time; time.sleep(9e9)"]
    )
    names = {
        "PROGRAM": PROGRAM,
        "RECORDING": str(RECORDING),
        "SAVED": "saved.json",
        "NEW": "new.json",
        "PROFILE": "some.profile",
        # Nothing on a bare machine writes a core file; the same command takes what dmi saved.
        "CORE": "saved.json",
        "COMMAND": "heap",
        "N": str(sleeper.pid),
        "before.txt": "before.txt",
        "after.txt": "after.txt",
        "report.html": "report.html",
    }
    try:
        (folder / "kept.py").write_text(KEPT)
        good = [
            run("python kept.py before.txt after.txt saved.json", folder),
            run(f"dmi run --profile some.profile -- {PROGRAM}", folder),
        ]
        for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            (folder / "shown.py").write_text(code)
            good.append(run("python shown.py", folder))
        for command in named(text):
            (folder / "new.json").unlink(missing_ok=True)
            words = runnable(command, names)
            good.append(run(words, folder, STATUSES.get(command.split()[1], (0,))))
    finally:
        sleeper.kill()
        sleeper.wait()
    print(f"{sum(good)} of {len(good)} are as README.md says")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
