"""What lands in the output folder, and what of it this program may replace."""
