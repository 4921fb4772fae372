"""A run is proved by hashing it again and by doing it again, and what differs is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.store.locks import is_held
from runner.store.store import Store
from runner.verify.files import verify_files
from runner.verify.run import open_run
from tests.chain import Checkout
from tests.tiny_chain import set_steps


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Checkout]
) -> Checkout:
    """The tiny recipe, run once; tests that change anything copy it."""
    checkout = make_tiny(tmp_path_factory.mktemp("finished"))
    result = checkout.recipe("run", "tiny.yaml")
    assert result.returncode == 0, result.stderr
    return checkout


@pytest.fixture
def run(finished: Checkout, tmp_path: Path) -> Path:
    """A copy of the finished run's folder."""
    folder = tmp_path / "a-run"
    shutil.copytree((finished.folder / "runs" / "tiny" / "latest").resolve(), folder)
    return folder


def verify(checkout: Checkout, run: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    return checkout.recipe("verify", str(run), *options)


def flip_a_bit(path: Path, offset: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_an_intact_run_is_proved_at_every_level(finished: Checkout) -> None:
    for level in ("files", "export", "train"):
        result = verify(finished, "runs/tiny", "--level", level)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "all as recorded" in result.stdout
    assert "every byte equal: fetch, prepare, train, evaluate, merge" in result.stdout
    # Other tests may be at it in the same cache: nothing is left that nobody holds.
    left = (Path(finished.env["SPARK_RECIPES_CACHE"]) / "verify").glob("*")
    assert all(is_held(path.with_suffix(".lock")) for path in left)


def test_export_does_not_train_again(finished: Checkout) -> None:
    result = verify(finished, "runs/tiny", "--level", "export", "--format", "json")
    found = json.loads(result.stdout)
    assert found["derived"] == {"stages": ["merge"], "notes": [], "difference": None}


@pytest.mark.parametrize(
    "name",
    [
        "adapter/adapter_model.safetensors",
        "merged/model/model.safetensors",
        "prepared/prompts.jsonl",
    ],
)
def test_one_bit_in_a_shown_file_is_named(finished: Checkout, run: Path, name: str) -> None:
    flip_a_bit(run / name)
    result = verify(finished, run)
    assert result.returncode == 7
    assert f"changed   {run / name} has sha256" in result.stdout
    assert result.stdout.count("changed ") == 1


def test_one_bit_in_any_file_of_a_run_is_named(finished: Checkout, run: Path) -> None:
    """Shown results are hard links or copies of the store's; here they are copies."""
    found = open_run(run)
    store = Store(Path(finished.env["SPARK_RECIPES_STORE"]))
    files = sorted(path for path in run.rglob("*") if path.is_file())
    assert {"run.json", "events.jsonl", "recipe.lock.yaml", "SHA256SUMS"} <= {p.name for p in files}
    assert any(path.parent.name == "logs" for path in files)
    for path in files:
        if path.stat().st_size == 0:
            continue
        before = path.read_bytes()
        flip_a_bit(path, offset=-3)
        bad = [checked.path for checked in verify_files(found, store) if checked.problem]
        # In the list itself the bit may be in a name: that file is missed then.
        assert path in bad or (path.name == "SHA256SUMS" and bad), path
        path.write_bytes(before)
    assert not any(checked.problem for checked in verify_files(found, store))


def test_the_checksums_are_those_of_sha256sum(finished: Checkout) -> None:
    folder = finished.folder / "runs" / "tiny" / "latest"
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True
    )
    assert checked.returncode == 0, checked.stdout
    below = [path for path in folder.resolve().rglob("*") if path.is_file()]
    assert len(checked.stdout.splitlines()) == len(below) - 1


@pytest.mark.parametrize("name", ["SHA256SUMS", "run.json", "logs/extra.log"])
def test_a_removed_or_added_file_of_a_run_is_named(
    finished: Checkout, run: Path, name: str
) -> None:
    if (run / name).exists() and name != "run.json":
        (run / name).unlink()
    else:
        (run / name).write_text((run / "run.json").read_text().replace("tiny", "tidy"))
    result = verify(finished, run)
    assert result.returncode == 7, result.stdout + result.stderr
    assert str(run / name) in result.stdout


def test_a_changed_manifest_is_named(finished: Checkout, run: Path) -> None:
    manifest = run / "manifest.json"
    text = manifest.read_text()
    at = text.index('"sha256": "') + 11
    manifest.chmod(0o644)
    manifest.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    result = verify(finished, run)
    assert result.returncode == 7
    assert f"changed   {manifest} " in result.stdout


def test_a_missing_file_is_named(finished: Checkout, run: Path) -> None:
    (run / "trace.jsonl").unlink()
    result = verify(finished, run)
    assert result.returncode == 7
    assert "trace.jsonl is gone" in result.stdout


def test_every_file_of_the_store_is_checked(finished: Checkout, tmp_path: Path) -> None:
    """Also those whose size and time are still right, which reuse would trust."""
    shutil.copytree(finished.env["SPARK_RECIPES_STORE"], tmp_path / "store", symlinks=True)
    store = Store(tmp_path / "store")
    run = open_run(finished.folder / "runs" / "tiny")
    stored = sorted(path for path in store.root.glob("[a-z]*/*/**/*") if path.is_file())
    assert len(stored) > 10
    for path in stored:
        flip_a_bit(path)
        bad = [checked.path for checked in verify_files(run, store) if checked.problem]
        assert bad == [path.parent if path.name == ".stage.json" else path]
        flip_a_bit(path)
    assert not any(checked.problem for checked in verify_files(run, store))


def test_what_was_collected_from_the_store_is_said_and_no_damage(
    finished: Checkout, tmp_path: Path
) -> None:
    empty = {"SPARK_RECIPES_STORE": str(tmp_path / "empty")}
    result = finished.recipe("verify", "runs/tiny", **empty)
    assert result.returncode == 0, result.stdout
    assert "no longer in the store" in result.stdout
    export = finished.recipe("verify", "runs/tiny", "--level", "export", **empty)
    assert export.returncode == 0, export.stdout + export.stderr
    assert "every byte equal: fetch, merge" in export.stdout


def test_another_merge_is_not_reproduced_and_the_tensor_is_named(
    finished: Checkout, run: Path
) -> None:
    """The run claims a merge that its adapter does not give."""
    weights = run / "merged" / "model" / "model.safetensors"
    flip_a_bit(weights)
    claim_file(run, "merge", "model/model.safetensors", weights)
    empty = {"SPARK_RECIPES_STORE": str(run.parent / "empty")}
    result = finished.recipe("verify", str(run), "--level", "export", **empty)
    assert result.returncode == 7, result.stdout
    assert "NOT reproduced: the first difference is in merge: model/model.safetensors" in (
        result.stdout
    )
    assert "1 of" in result.stdout
    assert "ulp apart" in result.stdout


def claim_file(run: Path, stage: str, name: str, path: Path) -> None:
    """Make manifest and record say that the run gave these bytes."""
    import hashlib

    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"][stage][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps(manifest, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (run / "manifest.json").chmod(0o644)
    (run / "manifest.json").write_text(text)
    record = json.loads((run / "run.json").read_text())
    record["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    del record["checksums"]
    (run / "run.json").write_text(json.dumps(record))
    (run / "SHA256SUMS").unlink()


def test_edited_data_cannot_be_trained_on_again(finished: Checkout) -> None:
    rows = finished.folder / "rows.jsonl"
    before = rows.read_text()
    rows.write_text(before.replace("The number is 3.", "The number is III."))
    result = verify(finished, "runs/tiny", "--level", "train")
    rows.write_text(before)
    assert result.returncode == 4
    assert "E703" in result.stderr
    assert "train.0: " in result.stderr


def test_a_folder_without_a_run_is_told(finished: Checkout, tmp_path: Path) -> None:
    result = verify(finished, tmp_path)
    assert result.returncode == 2
    assert "E701" in result.stderr


# --- two runs


def changed_run(checkout: Checkout, old: str, new: str) -> Path:
    """Run the tiny recipe with one change; returns the folder of that run."""
    text = (checkout.folder / "tiny.yaml").read_text()
    assert old in text
    (checkout.folder / "tiny.yaml").write_text(text.replace(old, new))
    result = checkout.recipe("run", "tiny.yaml")
    (checkout.folder / "tiny.yaml").write_text(text)
    assert result.returncode == 0, result.stderr
    return (checkout.folder / "runs" / "tiny" / "latest").resolve()


@pytest.fixture
def fresh(tmp_path: Path, make_tiny: Callable[[Path], Checkout]) -> tuple[Checkout, Path]:
    checkout = make_tiny(tmp_path)
    assert checkout.recipe("run", "tiny.yaml").returncode == 0
    return checkout, (checkout.folder / "runs" / "tiny" / "latest").resolve()


def diff(checkout: Checkout, first: Path, second: Path) -> dict:
    result = checkout.recipe("diff", str(first), str(second), "--format", "json")
    assert result.returncode in (0, 7), result.stderr
    found: dict = json.loads(result.stdout)
    assert (found["parts_in"] is None) == (result.returncode == 0)
    return found


def difference(found: dict, stage: str) -> dict:
    return next(each for each in found["stages"] if each["stage"] == stage)


def test_equal_runs_are_equal(finished: Checkout, run: Path) -> None:
    assert diff(finished, finished.folder / "runs" / "tiny", run)["parts_in"] is None


def test_other_rows_part_in_prepare_at_a_token(fresh: tuple[Checkout, Path]) -> None:
    checkout, first = fresh
    rows = checkout.folder / "rows.jsonl"
    rows.write_text(rows.read_text().replace("The number is 3.", "The number is 8."))
    second = changed_run(checkout, "schema: 1", "schema: 1")
    found = diff(checkout, first, second)
    assert found["parts_in"] == "prepare"
    stage = difference(found, "prepare")
    assert stage["inputs"][0].startswith("files.train.0: ")
    assert stage["difference"]["file"].endswith(".tokens.safetensors")
    assert "position" in stage["difference"]["where"]


def test_another_rate_parts_in_training_at_a_step(fresh: tuple[Checkout, Path]) -> None:
    checkout, first = fresh
    second = changed_run(checkout, "  save_steps: 5", "  save_steps: 5\n  learning_rate: 1.0e-4")
    found = diff(checkout, first, second)
    assert found["parts_in"] == "train"
    stage = difference(found, "train")
    assert any("learning_rate" in change for change in stage["inputs"])
    assert stage["difference"]["where"].startswith("step ")
    assert difference(found, "prepare")["equal"]


def test_another_merge_parts_in_merge(fresh: tuple[Checkout, Path]) -> None:
    checkout, first = fresh
    second = changed_run(checkout, "merge: {}", "merge: {dtype: float32}")
    found = diff(checkout, first, second)
    assert found["parts_in"] == "merge"
    assert difference(found, "train")["equal"]
    assert "BF16" in difference(found, "merge")["difference"]["where"]


def test_a_stage_that_only_one_run_has(fresh: tuple[Checkout, Path]) -> None:
    checkout, first = fresh
    set_steps(checkout, 12)
    assert checkout.recipe("run", "tiny.yaml", "--until", "train").returncode == 0
    second = (checkout.folder / "runs" / "tiny" / "latest").resolve()
    found = diff(checkout, first, second)
    assert found["parts_in"] == "evaluate"
    assert "only the first run" in difference(found, "merge")["inputs"][0]


def test_verify_twice_runs_and_proves(tiny: Checkout) -> None:
    result = tiny.recipe("run", "tiny.yaml", "--verify-twice")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "every byte equal: fetch, prepare, train, evaluate, merge" in result.stdout


def test_a_paranoid_run_notices_what_stamps_hide(tiny: Checkout) -> None:
    assert tiny.recipe("run", "tiny.yaml").returncode == 0
    (weights,) = Path(tiny.env["SPARK_RECIPES_STORE"]).glob("merge/*/model/model.safetensors")
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "up to date" in tiny.recipe("run", "tiny.yaml").stdout
    again = tiny.recipe("run", "tiny.yaml", "--paranoid")
    assert again.returncode == 0, again.stderr
    assert "up to date (" not in again.stdout
    assert verify(tiny, "runs/tiny").returncode == 0


def test_a_run_that_ended_early_says_so(tiny: Checkout) -> None:
    ran = tiny.recipe("run", "tiny.yaml", "--until", "prepare")
    assert "tiny: done until prepare" in ran.stdout
    assert "the run ended with prepare" in verify(tiny, "runs/tiny").stdout


def test_what_is_no_finished_run_is_told_apart(finished: Checkout, tmp_path: Path) -> None:
    recipe = verify(finished, "tiny.yaml")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "run.json").write_text("{}")
    begun = verify(finished, tmp_path / "x")
    assert (recipe.returncode, begun.returncode) == (2, 2)
    assert "no folder of a run" in recipe.stderr
    assert "it has begun and not ended" in begun.stderr
