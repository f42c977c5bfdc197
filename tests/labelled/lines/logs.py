"""A log of errors in a deque, among the lines of the access log."""

from collections import deque

ERRORS = deque(maxlen=20_000)


def error(number):
    ERRORS.append(b"error %08d " % number * 10)  # KEPT


def main():
    access = []
    for number in range(400_000):
        access.append(b"get %010d " % number * 10)
        if number % 24 == 0:
            error(number)
    access.clear()


main()
input("ready")
