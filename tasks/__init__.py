"""The experiments: one LightningModule a task. ``python -m tasks.<task> fit --help``."""
