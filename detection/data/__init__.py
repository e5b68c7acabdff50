"""Annotated images -> uint8 samples and their targets."""
