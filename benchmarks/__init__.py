"""Measurements; `make bench` runs all. Ratios against a baseline in the same run: machines are noisy."""
