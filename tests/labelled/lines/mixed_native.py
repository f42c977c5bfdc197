"""Python that calls a library of its own, which keeps what it is given."""

import ctypes
import pathlib
import sys

library = ctypes.CDLL(str(pathlib.Path(sys.argv[1]) / "mixed_native.so"))
library.scratch.restype = ctypes.c_void_p
library.drop.argtypes = [ctypes.c_void_p]
library.drop.restype = None


def main():
    blocks = []
    for number in range(700_000):
        blocks.append(library.scratch())
        if number % 80 == 0:
            library.store(number)
    for block in blocks:
        library.drop(block)


main()
input("ready")
