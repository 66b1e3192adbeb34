"""The tracker to start with: small, and trained on this project's own synthetic videos alone."""

from pathlib import Path

STARTER = Path(__file__).parent / "starter_checkpoint"
"""Its checkpoint: the quickstart's, exported by ``eval_jobs/export_tracker.py``."""
