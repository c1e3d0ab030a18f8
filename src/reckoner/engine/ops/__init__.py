"""One operation, several implementations: torch, Numba, oneDNN, Triton."""
