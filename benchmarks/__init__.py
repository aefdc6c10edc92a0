"""Benchmarks of tvmquant against other inference engines; see README.md in this folder."""
