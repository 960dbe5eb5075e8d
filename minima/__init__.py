"""The stages of a pipeline, and the program that runs one of them."""
