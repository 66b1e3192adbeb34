"""A ready set of synthetic videos and their shards: what a run falls back on without real data."""

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.preprocess import preprocess
from data_pipeline.readers.synthetic import fingerprint, render_dataset
from data_pipeline.shard_plans import PreprocessConfig, SourceConfig
from data_pipeline.synthetic_scenes import SyntheticConfig


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Where a set of synthetic videos lies."""

    videos: Path
    """Folder in GOT-10k's layout, ``train`` and ``val``."""

    shards: str
    """Folder of the training videos' shards."""


def prepare(config: SyntheticConfig, folder: Path) -> SyntheticData:
    """Renders and shards the videos of a config, unless that is done; the caller has started Ray.

    Args:
        config: which videos; each config has a folder of its own.
        folder: takes these folders.
    """
    home = folder.absolute() / f"synthetic-{fingerprint(config)[:10]}"
    data = SyntheticData(videos=home / "videos", shards=str(home / "shards"))
    render_dataset(data.videos, config)
    source = SourceConfig(reader="synthetic", folder=data.videos, split="train")
    preprocess(PreprocessConfig(sources=(source,), output=data.shards))
    return data
