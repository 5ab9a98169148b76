"""The local tenant: stand-ins for Entra ID, Advanced Hunting and Azure Data Explorer, on loopback, in one process.

Here: what those services do on the wire, quirks and limits included, over DuckDB. Not here: anything that the pipeline
itself uses. Only `catalogue` is shared with the rest, so that a mistake of the clients is not repeated by their
counterpart and thereby hidden; nothing but `cli` and the tests imports this package.
"""
