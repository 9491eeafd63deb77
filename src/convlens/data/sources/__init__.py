"""The sources of images behind one interface."""
