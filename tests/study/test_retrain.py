"""`reckon replay --train`: a run trained again gives the same weights, bit for bit, or is named."""

import json
from dataclasses import replace

from reckoner.algorithms import ALGORITHMS
from reckoner.study.retrain import retrain


def test_a_run_trained_again_has_the_same_weights_and_another_seed_has_not(tiny_config, tmp_path):
    config = replace(tiny_config, run=replace(tiny_config.run, output_dir=str(tmp_path / "first" / "run")))
    ALGORITHMS["sft"].train(config)
    folder = tmp_path / "first" / "run"
    assert retrain(folder, tmp_path / "again") == []
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (name,) = [name for name in manifest if name.startswith("model/") and name.endswith(".safetensors")]
    manifest[name]["sha256"] = "0" * 64
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert retrain(folder, tmp_path / "third") == [f"run/{name}: its bytes differ"]
