"""A plan to Kubernetes objects as plain dicts; may import pipeline."""
