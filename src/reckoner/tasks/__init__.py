"""What is asked and what counts as right: pure text, no torch."""
