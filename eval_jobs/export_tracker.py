"""Makes of a checkpoint one to give away: what tracking needs, and nothing else.

    python eval_jobs/export_tracker.py --checkpoint runs/RUN_ID/best --output my_tracker
    python eval_jobs/export_tracker.py ... --constant-rate 0.003      # one rate for all kernels

Adam's state and the paths of the training machine stay behind.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from data_pipeline.clear_errors import clear_errors, shortened
from eval_jobs.constant_rates import constant
from meta_train.checkpoint import FILES, Checkpoint, CheckpointError, load, save


def export_tracker(
    checkpoint: Path | str, output: Path, constant_rate: float | None = None
) -> Path:
    """Writes the checkpoint of a tracker; ``--init-from`` takes it as well.

    Args:
        checkpoint: its folder, or URI.
        output: a new or empty folder, or an earlier export, which is replaced.
        constant_rate: of every kernel's inner-loop steps, in place of the checkpoint's rates.

    Raises:
        CheckpointError: the checkpoint is missing, cut short or changed, or cannot be read; the
            output holds something else, or cannot be written.
        ValueError: the URI holds a secret, or the rate is not positive.
    """
    if constant_rate is not None and not constant_rate > 0:
        raise ValueError(f"a constant inner-loop rate must be positive, got {constant_rate}")
    output = output.absolute()
    _expect_replaceable(output)
    try:
        found = load(checkpoint)
    except OSError as error:
        raise CheckpointError(
            f"{checkpoint}: a checkpoint that can be read expected ({shortened(error, 500)}). Use "
            "another one, or mend its name"
        ) from error
    network = found.config.detector.network
    weights = network.backbone.weights  # the path of a file, it may be
    network = replace(network, backbone=replace(network.backbone, weights=Path(weights).name))
    config = replace(
        found.config, shards="", detector=replace(found.config.detector, network=network)
    )
    exported = Checkpoint(
        config=config,
        weights=found.weights,
        rates=found.rates if constant_rate is None else constant(found.rates, constant_rate),
        optimizer={},
        iteration=found.iteration,
    )
    try:
        return save(exported, output)
    except OSError as error:
        raise CheckpointError(
            f"{output}: a folder that can be written expected ({error.strerror}). Give another "
            "--output"
        ) from error


def _expect_replaceable(output: Path) -> None:
    """Refuses a place where `save` would take away more than an earlier export."""
    if output.is_dir():
        names = sorted(path.name for path in output.iterdir())
        others = [name for name in names if name not in FILES]
        if not names or (not others and not load(output).optimizer):
            return
        content = f"it holds {', '.join(others[:3])}{', ...' * (len(others) > 3)}"
        if not others:
            content = "it holds a run's checkpoint"
    elif output.exists():
        content = "it is a file"
    else:
        return
    raise CheckpointError(
        f"{output}: a new or empty folder, or an earlier export, expected; {content}. Give another "
        "--output"
    )


@clear_errors(ValueError, OSError)
def main(checkpoint: str, output: str, constant_rate: float | None = None) -> None:
    """Exports a tracker.

    Args:
        checkpoint: a checkpoint's folder or URI, such as runs/RUN_ID/best.
        output: the folder of this machine to write; an earlier export is replaced, all else is
            left alone.
        constant_rate: adapt every kernel at this rate, as a detector without learned ones does;
            at the checkpoint's own where not given.
    """
    if "://" in output:
        raise ValueError(f"--output: a folder of this machine expected, got the URI {output!r}")
    folder = export_tracker(checkpoint, Path(output), constant_rate)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"wrote {folder}, {size_mb:.2f} MB")


if __name__ == "__main__":
    tyro.cli(main)
