"""Settings are read from JSON, beside many documents that are read and dropped."""

import json

SETTINGS = []
TEXT = '{"a": [1.5, 2.5, 3.5], "b": {"c": [4.5, 5.5]}}'


def load(text):
    SETTINGS.append(json.loads(text))  # KEPT


def main():
    documents = []
    for number in range(90_000):
        documents.append(json.loads(TEXT))
        if number % 20 == 0:
            load(TEXT)
    documents.clear()


main()
input("ready")
