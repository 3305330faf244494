"""Images drawn from a seed: road scenes and domains."""
