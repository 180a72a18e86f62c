"""Evaluation shared by the systems: question answering, retrieval baselines, recommendation."""
