"""PID 1 of a pod, torchrun's workers, worker processes, signals; may import workspace and the command line."""
