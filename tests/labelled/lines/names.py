"""Interned names: the words of a text go, the names stay."""

import sys

NAMES = set()


def intern(text, number):
    NAMES.add(sys.intern(text[:4] + str(1000 + number)))  # KEPT


def main():
    words = []
    for number in range(1_000_000):
        words.append("w" + str(1_000_000 + number)[1:] + "z")
        if number % 70 == 0:
            intern("name", number)
    words.clear()


main()
input("ready")
