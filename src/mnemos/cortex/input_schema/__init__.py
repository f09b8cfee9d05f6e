"""Checking a job's input against its model's input schema (JSON Schema 2020-12), in bounded time.

A schema can take for ever over a small input: a pattern that backtracks, definitions that double
at each level. So it runs in a process of its own, which the system ends at a limit of CPU time.
"""
