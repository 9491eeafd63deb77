"""A local page on which to drop images."""
