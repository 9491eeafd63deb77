"""The libraries that convlens is compared with; each runs in its own environment."""
