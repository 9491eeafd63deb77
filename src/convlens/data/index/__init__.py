"""Which images there are, what they are called, and how they are divided."""
