"""A pipeline file to Kubernetes objects, and to runs of them here or in a cluster."""
