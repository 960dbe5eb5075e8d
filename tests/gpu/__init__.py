"""First light on a GPU: `make gpu-wheels` fills a folder with wheels, `make gpu` measures on a machine without network."""
