"""One module for each verb, with one `run(options, output)`; may import everything, and nothing imports it."""
