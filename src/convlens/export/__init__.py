"""A network as one file for elsewhere: what is written, what it says about itself, how it is read."""
