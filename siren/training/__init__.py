"""The one training loop that all tasks share, and its parts."""
