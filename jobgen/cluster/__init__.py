"""A namespace of a cluster: the conductor's program, and those who watch it; may import manifests and pipeline."""
