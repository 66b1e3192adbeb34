"""Data that will not do: why, and before anything is started."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from data_pipeline import preprocess as script
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.pair_tasks import PairTasksConfig, draw_tasks
from data_pipeline.preprocess import PreprocessConfig, SourceConfig, write_shard
from data_pipeline.shard_plans import make_plans
from data_pipeline.shards import INDEX_FILE, ShardError


def test_where_nothing_is_kept_the_error_says_what_was_left_out(
    make_dataset: Callable[[str, Path], str], tmp_path: Path
) -> None:
    split = make_dataset("trackingnet", tmp_path / "data")  # boxes of 8 px
    source = SourceConfig(reader="trackingnet", folder=tmp_path / "data", split=split)
    output = str(tmp_path / "shards")
    plans = make_plans(PreprocessConfig(sources=(source,), output=output, min_shards=2))
    for plan in plans:
        write_shard(plan, output, CropConfig())
    with pytest.raises(ShardError, match=r"left out: box too small 33\. See --crops\.min-box-px"):
        script._write_index(output, plans.shards)
    assert not (tmp_path / "shards" / INDEX_FILE).exists()


def test_the_script_looks_at_the_folders_before_ray_starts(
    make_dataset: Callable[[str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starts(address: str) -> NoReturn:
        raise AssertionError(f"Ray was started at {address}")

    monkeypatch.setattr(script, "ray_session", starts)
    make_dataset("got10k", tmp_path)
    sources = (f"got10k:{tmp_path}:tran",)
    with pytest.raises(SystemExit, match=r"error: .*tran/list\.txt"):
        script.main(sources, str(tmp_path / "shards"), CropConfig())
    assert not (tmp_path / "shards").exists()


def test_pair_tasks_without_a_held_out_video_say_of_how_many_videos(tiny_shards: str) -> None:
    with pytest.raises(ShardError, match=r"none of its 16 is one at .*val_fraction \(0\)") as ended:
        draw_tasks(tiny_shards, PairTasksConfig(), part="report", val_fraction=0.0)
    assert str(ended.value).startswith(tiny_shards)
