"""A study: arms, the processes that run them, and their record."""
