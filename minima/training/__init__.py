"""The one training loop and what it needs; may import everything but stages and evaluation."""
