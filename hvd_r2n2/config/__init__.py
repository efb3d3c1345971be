"""Settings: dataclasses with a docstring a field, strict YAML loading and dotted overrides."""

from hvd_r2n2.config.load import config_from_mapping, load_config, to_mapping, to_yaml, with_overrides
from hvd_r2n2.config.sections import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    HorovodConfig,
    ModelConfig,
    OptimizerConfig,
    SplitConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "HorovodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SplitConfig",
    "TrainConfig",
    "config_from_mapping",
    "load_config",
    "to_mapping",
    "to_yaml",
    "with_overrides",
]
