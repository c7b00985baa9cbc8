"""Benchmarks of the toolkit: ``python -m benchmarks NAME [options]``."""
