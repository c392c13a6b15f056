"""Data sets: how they are laid out, how one is known by name, and their images as tensors."""
