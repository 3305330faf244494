"""Blocks of segmentation_models_pytorch."""
