"""The commands of jobgen: `arguments` says what each takes, the others do it, a module for each group; may import everything,
but when a command needs it, so that `--help` and completion answer at once."""
