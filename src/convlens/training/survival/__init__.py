"""What keeps a run alive, or ends it without loss."""
