"""What a detector found -> the official numbers."""
