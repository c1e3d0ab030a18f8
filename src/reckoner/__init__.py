"""Fine-tune small language models to reason about math, and know which method really won."""

import os

__version__ = "0.1.0"

# Read by huggingface_hub when it is first imported: a model named by its Hub id is fetched, and nothing is
# reported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Read by the OpenMP library of torch when that is first imported: a thread that waits for another sleeps.
# Waiting actively, two threads on a busy machine hold the core that the other one needs
# (docs/reliability.md).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
