"""python -m dmi is the command dmi."""

from dmi.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
