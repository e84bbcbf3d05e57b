"""The read side: on DuckDB in this process (`reading`, `standalone`), as a server (`server`), as its clients (`client`).

Nothing is imported here: a client needs no DuckDB, a reader no web framework.
"""
