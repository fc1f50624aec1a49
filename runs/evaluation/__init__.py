"""Measurements of what a trained agent does and how far back it remembers, in suites."""
