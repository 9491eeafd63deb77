"""What a run folder is: where it lies, who holds it, what is read and written there."""
