"""Backbone weights -> detector."""
