"""A small web service that keeps too much: docs/which-code.md finds the line and mends it.

It takes orders as CSV, answers with sums by customer, and remembers when each was last seen.
Run as `service.py PORT`; with `--mended` what it remembers is copied when the batch is gone.
"""

from __future__ import annotations

import csv
import io
import pickle
import sys

from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)
MENDED = "--mended" in sys.argv
LAST_SEEN: dict[str, Visit] = {}


class Visit:
    """When a customer was last seen, and with which order."""

    __slots__ = ("customer", "order", "total")

    def __init__(self, customer: str, order: str, total: float) -> None:
        self.customer = customer
        self.order = order
        self.total = total


class Order:
    """One line of a batch."""

    __slots__ = ("amount", "customer", "number")

    def __init__(self, number: str, customer: str, amount: float) -> None:
        self.number = number
        self.customer = customer
        self.amount = amount


def remember(order: Order, seen: dict[str, Visit]) -> None:
    seen[order.customer] = Visit(order.customer, order.number, order.amount)


@app.post("/orders")
def orders() -> dict[str, float]:
    """Sums by customer of a batch."""
    batch = []
    fresh: dict[str, Visit] = {}
    for number, customer, amount in csv.reader(io.StringIO(request.get_data(as_text=True))):
        order = Order(number, customer, float(amount))
        batch.append(order)
        if customer not in LAST_SEEN and customer not in fresh:
            remember(order, fresh if MENDED else LAST_SEEN)
    sums: dict[str, float] = {}
    for order in batch:
        sums[order.customer] = sums.get(order.customer, 0.0) + order.amount
    answer = {"customers": len(sums), "total": sum(sums.values())}
    if MENDED:
        # The batch goes first; then what stays is copied, close together, and its originals go.
        del batch, order
        LAST_SEEN.update(pickle.loads(pickle.dumps(fresh)))
    return answer


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
