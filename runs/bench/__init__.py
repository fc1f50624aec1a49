"""Benchmarks: what a long context costs, and how well it is remembered."""
