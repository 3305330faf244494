"""From result lines to tables."""
