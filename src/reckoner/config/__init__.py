"""The settings of everything: what they are (`sections`) and how they are read (`load`)."""

from reckoner.config.layers import parse_override, read_layer
from reckoner.config.load import build_config, load_config, preset_names
from reckoner.config.schema import (
    NO_IDENTITY,
    ArmConfig,
    Config,
    DataConfig,
    EvalConfig,
    GRPOConfig,
    ModelConfig,
    PeftConfig,
    PromptConfig,
    RunConfig,
    StudyConfig,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "NO_IDENTITY",
    "ArmConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "GRPOConfig",
    "ModelConfig",
    "PeftConfig",
    "PromptConfig",
    "RunConfig",
    "StudyConfig",
    "TaskConfig",
    "TrainConfig",
    "build_config",
    "load_config",
    "parse_override",
    "preset_names",
    "read_layer",
]
