"""Drawn scenes with captions: pictures of which everything is known."""
