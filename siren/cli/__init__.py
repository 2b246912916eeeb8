"""The command line around the experiments: options, inputs, folders, messages, exit statuses."""
