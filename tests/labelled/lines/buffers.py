"""Uploads: one in twelve is kept, each two kilobytes."""

UPLOADS = []


def keep(size):
    UPLOADS.append(bytearray(size))  # KEPT


def main():
    parts = []
    for number in range(40_000):
        parts.append(bytearray(2000))
        if number % 6 == 0:
            keep(2000)
    parts.clear()


main()
input("ready")
