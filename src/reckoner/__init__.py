"""Fine-tune small language models to reason about math, and know which method really won."""

__version__ = "0.1.0"
