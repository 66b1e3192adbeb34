"""`benchmarks/opencv_peers.py`: its files are result files that our scoring reads."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import opencv_peers
import pytest

from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.result_files import score_results

SCRIPT = Path(opencv_peers.__file__)


def write_sequence(folder: Path) -> None:
    """Jogging, two targets, of which the second stands still; the first moves by 2 px a frame."""
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    background = rng.integers(60, 90, (120, 160, 3), dtype=np.uint8)
    for frame in range(6):
        image = background.copy()
        image[30:60, 20 + 2 * frame : 50 + 2 * frame] = 250
        image[70:100, 100:130] = 10
        cv2.imwrite(str(folder / "img" / f"{frame + 1:04d}.png"), image)
    rows = [f"{21 + 2 * frame},31,30,30" for frame in range(6)]
    (folder / "groundtruth_rect.1.txt").write_text("\n".join(rows))
    (folder / "groundtruth_rect.2.txt").write_text("101,71,30,30\n" * 6)


def test_its_files_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "OTB" / "Jogging")
    options = ["--folder", str(tmp_path / "OTB"), "--output", str(tmp_path / "boxes")]
    opencv_peers.main([*options, "--trackers", "MIL"])
    first = (tmp_path / "boxes" / "MIL" / "Jogging.2.txt").read_text().splitlines()[0]
    assert first == "101.0000,71.0000,30.0000,30.0000", "pixels count from 1"
    selection = select(find_benchmark("otb100"), tmp_path / "OTB", partial=True)
    score = score_results("MIL", tmp_path / "boxes" / "MIL", selection)
    assert len(score.sequences) == 2 and score.values["auc"] > 0.5
    opencv_peers.main([*options, "--trackers", "MIL"])
    assert "nothing left to run" in capsys.readouterr().out


def test_a_tracker_that_is_not_built_in_is_named() -> None:
    with pytest.raises(SystemExit, match=r"has no tracker Nothing: .*opencv-contrib-python"):
        opencv_peers.find_tracker("Nothing")


def test_it_needs_no_torch() -> None:
    code = "import sys, opencv_peers; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, timeout=60, check=False)
    assert done.returncode == 0
