"""Text and conversations to token ids, records and batches; may import workspace and the command line."""
