"""Student directories: written, read, described, shared, and in other formats."""
