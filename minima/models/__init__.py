"""Model folders, their weights and shapes, the importance of their parts; may import data, workspace and the command line."""
