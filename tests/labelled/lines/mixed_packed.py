"""Packed answers: zlib makes them, one in ten is kept."""

import random
import zlib

PACKED = []


def pack(data):
    PACKED.append(zlib.compress(data, 1))  # KEPT


def main():
    data = random.Random(1).randbytes(900)
    sent = []
    for number in range(60_000):
        sent.append(data[:-1])
        if number % 10 == 0:
            pack(data)
    sent.clear()


main()
input("ready")
