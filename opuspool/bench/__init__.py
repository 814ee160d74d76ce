"""Benchmarks: opuspool beside the other ways to decode, in one interleaved run.

Nothing of this is imported by `import opuspool`; `opuspool bench` is its command.
"""
