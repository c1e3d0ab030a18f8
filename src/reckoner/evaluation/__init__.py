"""Asking a policy and grading what it writes."""
