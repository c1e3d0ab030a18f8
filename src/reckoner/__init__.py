"""Fine-tune small language models to reason about math, and know which method really won.

`import reckoner as rk` offers the judge: `rk.compare`, `rk.load_run` and `rk.figures` (analysis/notebook.py).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reckoner.analysis.notebook import compare as compare
    from reckoner.analysis.notebook import figures as figures
    from reckoner.analysis.notebook import load_run as load_run

__version__ = "0.1.0"

# Read by huggingface_hub when it is first imported: a model named by its Hub id is fetched, and nothing is
# reported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Read by the OpenMP library of torch when that is first imported: for how many rounds a thread that waits for
# another looks again before it sleeps. By default it looks for milliseconds, on a busy machine at the cost of
# the core that the other one needs (docs/reliability.md).
os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def __getattr__(name: str) -> Any:
    """The judge's functions, imported at their first use: a command line starts without them."""
    if name in ("compare", "figures", "load_run"):
        from reckoner.analysis import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'reckoner' has no attribute {name!r}")
