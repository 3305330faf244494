"""A run's life on disk and under signals."""
