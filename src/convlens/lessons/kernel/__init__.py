"""A kernel slid over an image."""
