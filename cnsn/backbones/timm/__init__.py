"""Blocks of timm."""
