"""Benchmarks: each prints its figures as ratios to the peer or limit it names."""
