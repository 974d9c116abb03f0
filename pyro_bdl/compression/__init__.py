"""Posteriors turned into small networks: pruning, precision, clustering, coding, accounting."""
