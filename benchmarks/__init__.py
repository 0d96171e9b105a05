"""Benchmarks: ratios within one run, never absolute times, never in a test."""
