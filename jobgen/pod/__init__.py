"""What the API server takes as the values of a pod's template, by Kubernetes' own validation; imports nothing of jobgen."""
