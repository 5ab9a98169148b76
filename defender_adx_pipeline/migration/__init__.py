"""The engine: windows, planning, slices, ledger, watermark, reconciliation, audit.

Here: the one algorithm `sync(table, window)`; first load, tick, backfill, late data and crash recovery are calls of it.
Not here: how Defender is asked (`defender`), how ADX is written (`adx`), and anything of Dagster (`defs`).
"""
