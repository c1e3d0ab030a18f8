"""A policy: weights, tokenizer and adapter. Knows no tasks."""
