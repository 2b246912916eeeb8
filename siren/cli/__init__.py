"""The command line around the experiments: inputs, folders, signals, and what the user is told."""
