"""Logical consistency of preferences and REPAIR (2410.02205): rank aggregation, conflict-free comparisons."""
