"""Configurations: of the pipeline (`pipeline`), of a module's jobs (`module`), and ``-o`` overrides (`overrides`)."""

from maskline.config.pipeline import PipelineConfig, load_pipeline

__all__ = ["PipelineConfig", "load_pipeline"]
