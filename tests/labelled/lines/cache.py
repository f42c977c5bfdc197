"""A cache without a limit: one answer in fifty stays, beside the questions of the same size."""


class Answer:
    __slots__ = ("key", "value")

    def __init__(self, key, value):
        self.key = key
        self.value = value


CACHE = []


def answer(number):
    CACHE.append(Answer(number, None))  # KEPT


def main():
    CACHE.extend([None] * 20000)
    CACHE.clear()
    questions = [None] * 900_000
    for number in range(len(questions)):
        questions[number] = Answer(None, None)
        if number % 60 == 0:
            answer(None)
    questions.clear()


main()
input("ready")
