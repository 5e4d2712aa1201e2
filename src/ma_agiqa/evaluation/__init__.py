"""Evaluation: metrics, protocol, report."""
