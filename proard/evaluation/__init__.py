"""How good a student is: accuracy (`accuracy.py`), gradient masking, transfer, latency."""
