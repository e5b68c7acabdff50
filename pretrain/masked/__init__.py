"""Masked image modeling: networks that are shown a part of an image and are asked for the pixels of the rest."""
