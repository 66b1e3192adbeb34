"""Makes of a checkpoint one to give away: what tracking needs, and nothing else.

    python eval_jobs/export_tracker.py --checkpoint runs/RUN_ID/best --output my_tracker

Adam's state and the paths of the training machine stay behind.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from data_pipeline.clear_errors import clear_errors
from meta_train.checkpoint import Checkpoint, load, save


def export_tracker(checkpoint: Path | str, output: Path) -> Path:
    """Writes the checkpoint of a tracker; ``--init-from`` takes it as well.

    Args:
        checkpoint: its folder, or URI.
        output: the new folder; one that is there is replaced.

    Raises:
        CheckpointError: the checkpoint is missing, cut short or changed, or the disk is full.
    """
    found = load(checkpoint)
    network = found.config.detector.network
    weights = network.backbone.weights  # the path of a file, it may be
    network = replace(network, backbone=replace(network.backbone, weights=Path(weights).name))
    config = replace(
        found.config, shards="", detector=replace(found.config.detector, network=network)
    )
    exported = Checkpoint(
        config=config,
        weights=found.weights,
        rates=found.rates,
        optimizer={},
        iteration=found.iteration,
    )
    return save(exported, output)


@clear_errors()
def main(checkpoint: str, output: Path) -> None:
    """Exports a tracker.

    Args:
        checkpoint: a checkpoint's folder or URI, such as runs/RUN_ID/best.
        output: the folder to write.
    """
    folder = export_tracker(checkpoint, output)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"wrote {folder}, {size_mb:.2f} MB")


if __name__ == "__main__":
    tyro.cli(main)
