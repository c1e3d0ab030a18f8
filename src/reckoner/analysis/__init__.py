"""What the records say: statistics, errors, comparison, pictures, report. Never imports torch."""
