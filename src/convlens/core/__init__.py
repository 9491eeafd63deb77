"""What every room may use: errors, processes, downloads, the stopwatch."""
