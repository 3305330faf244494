"""Blocks of torchvision."""
