"""Where data comes from: one file for each data set, and the user's own files."""
