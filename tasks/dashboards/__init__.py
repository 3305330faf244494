"""Weights & Biases: the logger, and workspaces by ``python -m tasks.dashboards``."""
