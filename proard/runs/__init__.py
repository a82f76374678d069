"""A run directory: its files, its checkpoint, what its configuration names, its energy, its trackers."""
