"""Tensor work shared by the algorithms: no equation of a paper, no task knowledge."""
