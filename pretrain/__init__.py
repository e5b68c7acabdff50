"""Shards -> backbone weights."""
