"""A pipeline file to a plan: what is wrong with it, and every stage's key, command line and memory; imports of minima no more
than the command line, workspace and shape."""
