"""PID 1 of a pod, torchrun's workers, worker processes, signals; may import workspace and the command line.

The stage that it starts is named by the verb: `launch.module` is the one place that looks upwards, when the program runs.
"""
