"""Callbacks that are registered and never removed."""

CALLBACKS = []


class Handler:
    __slots__ = ("a", "b", "c", "d")


def register():
    handler = Handler()  # KEPT
    CALLBACKS.append(handler)


def main():
    events = []
    for number in range(900_000):
        events.append(Handler())
        if number % 55 == 3:
            register()
    events.clear()


main()
input("ready")
