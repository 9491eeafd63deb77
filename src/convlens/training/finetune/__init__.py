"""What is trained when, at which rate, and from which stored features."""
