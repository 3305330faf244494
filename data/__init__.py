"""Data of the experiments: one LightningDataModule a task, and what they share."""
