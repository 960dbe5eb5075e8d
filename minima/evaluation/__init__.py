"""Benchmarks: offline copies, lm-evaluation-harness, the sandbox; may import everything but stages and training."""
