"""Known shapes give the parameter counts that their authors publish."""

from __future__ import annotations

import pytest

from reckoner.errors import InputError
from reckoner.models.dimensions import meta_model, model_config
from reckoner.models.sources import verified_embedded


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("google/gemma-2b-it", 2_506_172_416),
        ("google/gemma-2-2b", 2_614_341_888),
        ("google/gemma-2-9b-it", 9_241_705_984),
        ("google/gemma-3-1b-it", 999_885_952),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
    ],
)
def test_published_counts(name, parameters):
    assert sum(p.numel() for p in meta_model(model_config(name)).parameters()) == parameters


def test_local_folder_and_unknown_names(tmp_path):
    assert model_config("nano").to_dict() == model_config(str(verified_embedded())).to_dict()
    with pytest.raises(InputError, match="someone/large: its shape is not known here; .* google/gemma-2b"):
        model_config("someone/large")
