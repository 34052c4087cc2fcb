"""Benchmarks: each module's `run()` measures against a named peer in the same process or run, and returns rows."""
