"""The gateway's SQL store: tables, migrations and every query; nothing else speaks SQL.

`database.py` opens it, `tables.py` and `provenance_tables.py` say what it holds, and each remaining
module has the queries of one area as plain functions over a connection, so that one request is one
transaction.
"""
