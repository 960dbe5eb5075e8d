"""Results as folders: keys, markers, inputs, leases, attempts. All that jobgen shares with minima beside the options, so
standard library only; may import the command line."""
