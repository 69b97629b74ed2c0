"""The gateway's SQL store: tables, migrations and every query; no other package uses SQL.

`database.py` opens the database, `tables/` defines the tables, and each of the other modules has
the queries of one area as plain functions over a connection, so that one request is one
transaction.
"""
