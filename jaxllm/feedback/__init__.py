"""Reliability of preference data: audit by a committee, sources of unreliability, cleaning (2410.01957, 2509.23564)."""
