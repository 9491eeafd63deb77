"""A network as one file for elsewhere: how it is written, what it says, how it is read."""
