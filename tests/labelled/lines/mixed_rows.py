"""Rows of a database: those that were asked for by name stay."""

import sqlite3

WANTED = []


def want(cursor):
    WANTED.append(cursor.fetchone())  # KEPT


def main():
    base = sqlite3.connect(":memory:")
    base.execute("create table t (a blob)")
    base.executemany("insert into t values (?)", ((b"%030d" % n,) for n in range(500_000)))
    cursor = base.execute("select a from t")
    rows = []
    while (row := cursor.fetchone()) is not None:
        rows.append(row)
        if len(rows) % 32 == 0:
            want(cursor)
    rows.clear()
    base.close()


main()
input("ready")
