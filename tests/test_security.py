"""What the README's security section promises, as far as the code alone can show it."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipeline.preprocess import PreprocessConfig, SourceConfig
from eval_jobs.pipeline import PipelineConfig
from meta_train.launch import LaunchConfig
from meta_train.run_log import MlflowConfig, RunLog
from meta_train.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")

SPOOL = "data_pipeline/track_spool.py"
"""Pickles into a file without a name, of its own process: nobody else can write to it."""


def syntax_trees() -> Iterator[tuple[str, ast.AST]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return set()


def test_nothing_that_runs_code_from_a_file_is_called() -> None:
    banned = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    calls = {"eval", "exec", "np.load", "yaml.load", "os.system", "os.popen", "ast.literal_eval"}
    calls |= {"tarfile.open", "shutil.unpack_archive"}
    found = []
    for name, tree in syntax_trees():
        for node in ast.walk(tree):
            if name != SPOOL and imported(node) & banned:
                found.append(f"{name}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
            options = [] if not isinstance(node, ast.Call) else node.keywords
            found += [
                f"{name}:{node.lineno}"
                for option in options
                if (option.arg, ast.unparse(option.value))
                in (("allow_pickle", "True"), ("shell", "True"))
            ]
    assert found == []


def test_tensors_are_loaded_with_weights_only() -> None:
    loads = [
        (name, {option.arg: ast.unparse(option.value) for option in node.keywords})
        for name, tree in syntax_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert {name for name, _ in loads} == {
        "meta_train/state_file.py",
        "meta_train/detectors/backbone.py",
    }
    assert all(options.get("weights_only") == "True" for _, options in loads)


SECRET = "hunter2"

URIS = (
    f"s3://AKIA123:{SECRET}@bucket/runs",
    f"https://me:{SECRET}@mlflow.example.com",
    f"postgresql://me:{SECRET}@db.example.com/mlflow",
    f"abfs://container@account/runs?account_key={SECRET}",
    f"s3://bucket/runs?secret_key={SECRET}",
)

CONFIGS: dict[str, Callable[[str], object]] = {
    "storage": lambda uri: PipelineConfig(storage=uri),
    "shards": lambda uri: TrainConfig(shards=uri),
    "tracking_uri": lambda uri: MlflowConfig(tracking_uri=uri),
    "artifact_location": lambda uri: MlflowConfig(artifact_location=uri),
    "output": lambda uri: PreprocessConfig(
        output=uri, sources=(SourceConfig(reader="coco", folder=Path("x")),)
    ),
    "init_from": lambda uri: LaunchConfig(pipeline=PipelineConfig(), init_from=uri),
}


@pytest.mark.parametrize("field", CONFIGS)
def test_a_uri_with_a_secret_is_refused_without_repeating_it(field: str) -> None:
    for uri in URIS:
        with pytest.raises(ValueError, match=f"^{field}: a URI without credentials") as raised:
            CONFIGS[field](uri)
        assert SECRET not in str(raised.value)
    CONFIGS[field]("s3://bucket/runs?region=eu-west-1&endpoint_override=localhost:9000")


def test_secrets_of_the_environment_do_not_reach_mlflow(
    tmp_path: Path,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    config = MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "waiting"))
    run_log = RunLog.start(config, run_name="x", params={"storage": "s3://bucket"}, tags={})
    run_log.log_metrics({"a": 1.0}, step=0)
    run_log.log_text("text", "notes.txt")
    run_log.finish()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2
    assert all(SECRET.encode() not in path.read_bytes() for path in written)
    assert SECRET not in caplog.text


def test_what_git_must_not_take_is_ignored() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"mlflow.db", "mlartifacts/", "runs/", ".venv/"} <= set(ignored)
