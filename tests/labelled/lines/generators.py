"""Work that was begun and never finished: suspended generators."""

UNFINISHED = []


def work(number):
    total = number
    while True:
        total += yield total


def begin(number):
    UNFINISHED.append(work(number))  # KEPT


def main():
    done = []
    for number in range(250_000):
        done.append(work(number))
        if number % 18 == 0:
            begin(number)
    done.clear()


main()
input("ready")
