"""Annotated photographs -> uint8 samples and their targets."""
