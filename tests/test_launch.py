"""meta_train.launch: what the command line means."""

import pytest

from eval_jobs.presets import PRESETS
from meta_train.launch import _parse


def test_no_argument_is_the_quickstart() -> None:
    preset, config = _parse([])
    assert preset == "quickstart"
    assert config.pipeline == PRESETS["quickstart"][1]
    assert config.resume is None


def test_a_setting_without_a_preset_changes_the_quickstart() -> None:
    preset, config = _parse(["--train.seed", "3"])
    assert preset == "quickstart"
    assert config.pipeline.train.seed == 3


def test_resume_takes_where_things_are_and_no_other_setting() -> None:
    _, config = _parse(["--resume", "a-run", "--storage", "elsewhere", "--mlflow.experiment", "x"])
    assert (config.resume, config.pipeline.storage) == ("a-run", "elsewhere")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--train.outer-loop.learning-rate", "0.1"], "train.outer_loop.learning_rate"),
        (["--init-from", "runs/another/best"], "init_from"),
    ],
)
def test_resume_refuses_settings_that_it_would_not_heed(flags: list[str], named: str) -> None:
    with pytest.raises(SystemExit, match=named):
        _parse(["--resume", "a-run", *flags])
