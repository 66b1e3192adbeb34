"""Script: dataset folders -> shards of crops, with Ray Data; a killed run goes on where it was."""

import hashlib
import json
import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.clear_errors import clear_errors
from data_pipeline.contact_sheet import write_contact_sheet
from data_pipeline.crop_tracks import (
    CropConfig,
    DropReport,
    FrameSource,
    crop_track,
)
from data_pipeline.json_files import read_object
from data_pipeline.look_alikes import siblings
from data_pipeline.manifest import MANIFEST_FILE
from data_pipeline.preprocess_report import PreprocessReport, describe, dropped_frames
from data_pipeline.ray_session import default_address, ray_session
from data_pipeline.shard_plans import (
    PreprocessConfig,
    ShardPlan,
    ShardPlans,
    SourceConfig,
    make_plans,
    parse_source,
)
from data_pipeline.shards import (
    INDEX_FILE,
    SCHEMA_VERSION,
    DatasetCounts,
    Manifest,
    ShardError,
    ShardWriter,
    index_shard,
    read_index,
    read_manifest,
    read_notes,
    write_manifest,
)
from data_pipeline.steady_storage import StorageError, answered, open_steady, write_file
from data_pipeline.storage import (
    atomic_output,
    exists,
    open_folder,
    remove_partials,
    run_token,
)
from data_pipeline.tracks import DatasetError

__all__ = [
    "CropConfig",
    "PreprocessConfig",
    "PreprocessReport",
    "SourceConfig",
    "preprocess",
]

logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"

FAILURES = {each.__name__: each for each in (DatasetError, ShardError, StorageError)}
"""What a worker returns and does not raise: Ray Data would add to it, and log it as a failure of
its own."""


def preprocess(config: PreprocessConfig) -> PreprocessReport:
    """Writes the shards, the index and, last, the manifest. The caller has initialised Ray.

    Shards that an earlier run of the same plan has written are kept. The output is the same
    whatever the number of workers.

    Raises:
        DatasetError: a dataset folder is not as its reader expects it, or an image cannot be read.
        ShardError: the output folder holds the shards of another plan, or nothing was kept.
        StorageError: the output folder's storage does not answer.
    """
    start = time.perf_counter()
    with closing(make_plans(config)) as plans:
        return write_planned(config, plans, start)


def write_planned(config: PreprocessConfig, plans: ShardPlans, start: float) -> PreprocessReport:
    """What `preprocess` does once the annotations were read; ``start`` is when that began, by
    `time.perf_counter`.
    """
    filesystem, path = open_steady(config.output)
    images_written, shards = 0, plans.shards
    _claim_folder(config, plans.fingerprint)
    if _is_complete(config, plans):
        logger.info("the shards in %s are complete", config.output)
    else:
        remove_partials(filesystem, path)
        images_written = _write_shards(config, plans)
        _write_index(config.output, shards)
        write_contact_sheet(config.output)
        write_manifest(config.output, _make_manifest(config, shards))
    notes = [read_notes(config.output, shard) for shard in shards]
    return PreprocessReport(
        manifest=read_manifest(config.output),
        dropped=dropped_frames(notes),
        broken_images=tuple(message for note in notes for message in note["broken_images"]),
        images_written=images_written,
        seconds=time.perf_counter() - start,
    )


def _is_complete(config: PreprocessConfig, plans: ShardPlans) -> bool:
    """Whether a manifest says so, and no shard was deleted or damaged since, or lacks images that
    none may lack now.
    """
    filesystem, path = open_steady(config.output)
    if not exists(filesystem, f"{path}/{MANIFEST_FILE}"):
        return False
    written = [_is_written(config.output, s, plans.fingerprint, config.crops) for s in plans.shards]
    if not all(written):
        logger.warning("%s: %d shards are written again", config.output, written.count(False))
    return all(written)


def _claim_folder(config: PreprocessConfig, fingerprint: str) -> None:
    """Notes in the output folder whose shards it holds; another plan's folder is an error."""
    found = read_object(config.output, PLAN_FILE)
    if found is None:
        write_file(config.output, PLAN_FILE, json.dumps({"fingerprint": fingerprint}).encode())
        found = read_object(config.output, PLAN_FILE)
    # Read back: another run may have claimed the folder at the same moment.
    if found is None or found.get("fingerprint") != fingerprint:
        raise ShardError(
            f"{config.output}: an empty folder or shards of the same plan expected, it holds those "
            "of other sources or settings. Choose another output folder, or delete this one."
        )


def _write_shards(config: PreprocessConfig, plans: ShardPlans) -> int:
    """All shards that are not there yet, one Ray task each; the number of crops written."""
    import ray

    # A plan travels as an object of Ray's store: Arrow has no column for it.
    settings = {
        "plans": [ray.put(plan) for plan in plans],
        "output": config.output,
        "config": config.crops,
        "run": run_token(),
    }
    dataset = ray.data.range(len(plans), override_num_blocks=len(plans))
    dataset = dataset.map(_write_planned_shard, fn_kwargs=settings, num_cpus=config.cpus_per_task)
    images = 0
    for count, row in enumerate(dataset.iter_rows(), start=1):
        if row["failure"]:
            raise FAILURES[row["failure"]](row["message"])
        images += int(row["images"])
        logger.info("%d of %d shards, last %s", count, len(plans), row["shard"])
    return images


def _write_planned_shard(
    row: dict[str, Any], plans: list[Any], output: str, config: CropConfig, run: str
) -> dict[str, Any]:
    """The task of a worker: its plan's shard, or why there is none."""
    import ray

    cv2.setNumThreads(1)
    plan = ray.get(plans[row["id"]])
    done = {"shard": plan.shard, "images": 0, "failure": "", "message": ""}
    try:
        return done | {"images": write_shard(plan, output, config, run)}
    except tuple(FAILURES.values()) as error:
        failure = next(name for name, kind in FAILURES.items() if isinstance(error, kind))
        return done | {"failure": failure, "message": str(error)}


def write_shard(plan: ShardPlan, output: str, config: CropConfig, run: str | None = None) -> int:
    """Writes the shard of one plan, unless a complete one is there; the number of new crops.

    Args:
        plan: what the shard is to hold.
        output: the folder.
        config: what is cut.
        run: the `run_token` of the run that this is a part of; this process where not given.

    Raises:
        DatasetError: an image cannot be read, and ``on_broken_image`` is ``raise``.
        StorageError: the output folder's storage does not answer, again and again.
    """
    if _is_written(output, plan.shard, plan.fingerprint, config):
        return 0
    where = f"{output}/{plan.shard}"
    return answered(lambda: _write_shard_once(plan, output, config, run), where)


def _write_shard_once(plan: ShardPlan, output: str, config: CropConfig, run: str | None) -> int:
    filesystem, path = open_folder(output)
    drops, source, images = DropReport(), FrameSource(), 0
    with (
        atomic_output(filesystem, f"{path}/{plan.shard}", run=run) as stream,
        ShardWriter(stream) as writer,
    ):
        for track, others in zip(plan.tracks, siblings(plan.tracks), strict=True):
            for chunk in crop_track(track, config, source, drops, others):
                writer.write(chunk)
                images += len(chunk.frame_numbers) * (1 + config.num_views)
        writer.finish(
            {
                "plan": plan.fingerprint,
                "dropped": {reason: count for reason, count in drops.reasons.items() if count},
                "broken_images": drops.broken_images,
            }
        )
    return images


def _is_written(output: str, shard: str, fingerprint: str, config: CropConfig) -> bool:
    filesystem, path = open_steady(output)
    if not exists(filesystem, f"{path}/{shard}"):
        return False
    try:
        notes = read_notes(output, shard)
        lacks_images = bool(notes["broken_images"]) and config.on_broken_image == "raise"
        return bool(notes["plan"] == fingerprint) and not lacks_images
    except ShardError as error:
        logger.warning("writing a shard again: %s", error)
        return False


def _write_index(output: str, shards: list[str]) -> None:
    """Raises `ShardError` where every frame was left out: it says why."""
    index = pa.concat_tables([index_shard(output, shard) for shard in shards])
    if not index.num_rows:
        dropped = dropped_frames([read_notes(output, shard) for shard in shards])
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise ShardError(
            f"{output}: at least one track to keep expected, all frames were left out: "
            f"{reasons or 'there is none'}. See --crops.min-box-px and --crops.min-still-box-px "
            "for boxes that are too small, data_pipeline/check_dataset.py for all else; then take "
            "another output folder, or delete this one."
        )
    content = pa.BufferOutputStream()
    pq.write_table(index, content)
    write_file(output, INDEX_FILE, content.getvalue().to_pybytes())


def _make_manifest(config: PreprocessConfig, shards: list[str]) -> Manifest:
    filesystem, path = open_steady(config.output)
    digests = [read_notes(config.output, shard)["digest"] for shard in shards]
    content = json.dumps([SCHEMA_VERSION, digests])
    return Manifest(
        schema_version=SCHEMA_VERSION,
        num_views=config.crops.num_views,
        jpeg_quality=config.crops.jpeg_quality,
        seed=config.crops.seed,
        counts=_count(read_index(config.output), config.crops.num_views),
        bytes=sum(filesystem.get_file_info(f"{path}/{shard}").size for shard in shards),
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )


def _count(index: pa.Table, num_views: int) -> dict[str, DatasetCounts]:
    counts = {}
    for dataset in sorted(index["dataset"].unique().to_pylist()):
        rows = index.filter(pa.compute.equal(index["dataset"], dataset))
        frames = int(pa.compute.sum(rows["num_frames"]).as_py())
        counts[dataset] = DatasetCounts(
            videos=len(rows["video"].unique()),
            tracks=rows.group_by(["video", "target"]).aggregate([]).num_rows,
            rows=rows.num_rows,
            frames=frames,
            images=frames * (1 + num_views),
        )
    return counts


@clear_errors(ValueError)
def main(
    sources: tuple[str, ...],
    output: str,
    crops: CropConfig,
    max_shard_bytes: int = PreprocessConfig.max_shard_bytes,
    min_shards: int = PreprocessConfig.min_shards,
    cpus_per_task: float = PreprocessConfig.cpus_per_task,
    address: str | None = None,
) -> None:
    """Cuts datasets into shards of crops.

    Args:
        sources: each as reader:folder:split, e.g. got10k:/data/got10k:train.
        output: folder of the shards, or a URI such as s3://bucket/path.
        crops: what is cut from each frame.
        max_shard_bytes: about the largest size of a shard.
        min_shards: at least this many shards.
        cpus_per_task: share of a core for a task; less where reading waits for the network.
        address: of the Ray cluster; "local" starts one, "auto" finds the one that this machine is
            in. RAY_ADDRESS where not given, and "local" where that is not set.
    """
    config = PreprocessConfig(
        sources=tuple(parse_source(text) for text in sources),
        output=output if "://" in output else str(Path(output).absolute()),
        crops=crops,
        max_shard_bytes=max_shard_bytes,
        min_shards=min_shards,
        cpus_per_task=cpus_per_task,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # First the plans: a folder that will not do is told before Ray starts.
    start = time.perf_counter()
    with closing(make_plans(config)) as plans, ray_session(address or default_address()):
        report = write_planned(config, plans, start)
    print(describe(report))


if __name__ == "__main__":
    import tyro

    # By its import name: Ray's workers must find the classes that this script uses.
    from data_pipeline import preprocess as script

    tyro.cli(script.main)
