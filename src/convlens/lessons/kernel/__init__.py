"""Lesson: slide a kernel over an image."""
