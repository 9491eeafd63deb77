"""Words from the command line to a checked config."""
