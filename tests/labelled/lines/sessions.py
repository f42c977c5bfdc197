"""Sessions, a tuple each, among the tuples of requests."""

SESSIONS = []


def open_session(user, flags):
    SESSIONS.append((user, flags))  # KEPT


def main():
    requests = []
    for number in range(900_000):
        requests.append((number % 7, None))
        if number % 64 == 0:
            open_session(number % 5, None)
    del requests


main()
input("ready")
