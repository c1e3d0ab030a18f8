"""Keep the outcome of a finished study in the repository: its table, its tests, what it cost, and its
picture.

    reckon study --preset nano && python benchmarks/store_study.py runs/nano

Writes benchmarks/results/study-NAME.json and docs/figures/study-NAME-accuracy.svg, and prints the table for
the README.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from reckoner.analysis.findings import find
from reckoner.analysis.limits import limits
from reckoner.analysis.report import document
from reckoner.analysis.sentences import verdict
from reckoner.analysis.study_records import read_study
from reckoner.analysis.study_tables import summary
from reckoner.runs.records import read_json

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Store one study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="", help="name to store it under; default: that of the study")
    arguments = parser.parse_args()
    found = find(read_study(arguments.folder))
    name = arguments.name or found.study.name
    record = read_json(arguments.folder / "study.json")
    runs = {arm.name: arm.run for arm in found.study.arms if arm.run is not None}
    facts = document(found)
    del facts["report"]
    facts |= {
        "command": record.get("command", ""),
        "environment": read_json(arguments.folder / "environment.json"),
        "runs": {
            key: {
                "evaluations": [asdict(e) for e in run.evaluations],
                "training": asdict(run.training) if run.training else None,
            }
            for key, run in runs.items()
        },
    }
    path = ROOT / "benchmarks" / "results" / f"study-{name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    picture = arguments.folder / "figures" / "accuracy.svg"
    if picture.is_file():
        shutil.copy(picture, ROOT / "docs" / "figures" / f"study-{name}-accuracy.svg")
    table = summary(found)
    print(table.title, "", table.markdown(), *verdict(found), *limits(found), sep="\n")


if __name__ == "__main__":
    main()
