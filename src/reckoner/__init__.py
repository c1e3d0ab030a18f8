"""Fine-tune small language models to reason about math, and know which method really won."""

import os

__version__ = "0.1.0"

# Read by huggingface_hub when it is first imported: a model named by its Hub id is fetched, and nothing is
# reported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Read by the OpenMP library of torch when that is first imported: for how many rounds a thread that waits for
# another looks again before it sleeps. By default it looks for milliseconds, on a busy machine at the cost of
# the core that the other one needs (docs/reliability.md).
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
