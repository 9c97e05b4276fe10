"""The assignments log: the append-only record of every chunk, its thread, its split and its window.

`segment` is the format, `log` the commit and the chain, `table` the log as columns, `archive` what
the stages open. See docs: segments are immutable, numbered from 0, and chained by digest.
"""
