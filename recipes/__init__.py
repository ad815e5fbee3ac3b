"""Short scripts to copy and edit: each is one function that returns a Pipeline."""
