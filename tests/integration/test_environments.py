"""Hash-locked environments, built by the real uv from wheels that are made on the fly."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.system import environments
from runner.system.environments import MARKER, ensure, identity, without_supplied

ROOT = Path(__file__).resolve().parents[2]


def is_built(role: str, cache: Path) -> bool:
    """Would the environment be taken as it is?"""
    return environments._find(role, identity(role), cache) is not None


def write_wheel(folder: Path, name: str, version: str, size: int = 10) -> str:
    """A minimal wheel with one module; returns its line for a lock."""
    info = f"{name}-{version}.dist-info"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    files = {
        f"{name}.py": f"VERSION = {version!r}\nPAD = {'x' * size!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}\n    # via a test\n"


class Setting:
    """A folder of wheels as the only index, a lock for the role `tiny`, and an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.locks = folder / "environments"
        self.cache = folder / "cache"
        for path in (self.wheels, self.locks):
            path.mkdir()
        self.lock = self.locks / "tiny.txt"
        self.lock.write_text(
            write_wheel(self.wheels, "alpha", "1.0")
            + write_wheel(self.wheels, "beta", "2.0")
            + write_wheel(self.wheels, "gamma", "3.0").replace(
                "gamma==3.0", "gamma==3.0 ; sys_platform == 'win32'"
            )
        )
        self.said: list[str] = []

    def ensure(self) -> environments.Environment:
        return ensure("tiny", self.cache, self.said.append)

    def code(self, more: str) -> str:
        """A program that sees the same setting."""
        return (
            "from pathlib import Path\n"
            "from runner.system import environments\n"
            f"environments.shipped = lambda kind: Path({str(self.locks)!r})\n"
            f"cache = Path({str(self.cache)!r})\n" + more
        )

    def start(self, more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", self.code(more)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(tmp_path)
    monkeypatch.setattr(environments, "shipped", lambda kind: made.locks)
    monkeypatch.delenv("SPARK_RECIPES_PREBUILT", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    return made


def versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    said = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def folder_of(setting: Setting) -> Path:
    return setting.cache / "environments" / f"tiny-{identity('tiny')[:16]}"


ENSURE = "print(environments.ensure('tiny', cache, lambda said: print(said, flush=True)).python)\n"


def test_an_environment_holds_exactly_what_is_locked_here(setting: Setting) -> None:
    assert not is_built("tiny", setting.cache)
    found = setting.ensure()
    assert versions(found.python) == {"alpha": "1.0", "beta": "2.0"}
    assert is_built("tiny", setting.cache)
    assert found.identity == identity("tiny")
    assert "installing environment tiny" in setting.said[0]
    assert "environment tiny is ready" in setting.said[-1]
    assert sorted(path.name for path in setting.cache.iterdir()) == ["environments", "locks", "uv"]


def test_the_second_time_costs_nothing(setting: Setting) -> None:
    first = setting.ensure()
    setting.said.clear()
    shutil.rmtree(setting.wheels)
    assert setting.ensure() == first
    assert setting.said == []


def test_another_lock_is_another_environment(setting: Setting) -> None:
    first = setting.ensure()
    setting.lock.write_text(write_wheel(setting.wheels, "alpha", "1.1"))
    assert not is_built("tiny", setting.cache)
    second = setting.ensure()
    assert second.identity != first.identity
    assert versions(second.python) == {"alpha": "1.1"}
    assert versions(first.python) == {"alpha": "1.0", "beta": "2.0"}


# The builder stops between the installation and the marker, where the folder looks finished.
STALL = """
import time
def stall(folder):
    print("stalled", flush=True)
    while not (cache / "go-on").exists():
        time.sleep(0.01)
environments._sync_file_system = stall
"""


def read_until(process: subprocess.Popen[str], start: str) -> str:
    """The next line of the process that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"it ended without saying {start!r}")


def test_two_processes_build_it_once(setting: Setting) -> None:
    first = setting.start(STALL + ENSURE)
    read_until(first, "stalled")
    second = setting.start(STALL + ENSURE)
    assert f"process {first.pid} " in read_until(second, "waiting for")
    (setting.cache / "go-on").touch()
    said = [process.communicate()[0].splitlines() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert said[0][-1] == said[1][-1]
    assert "stalled" not in said[1]
    assert versions(Path(said[0][-1])) == {"alpha": "1.0", "beta": "2.0"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_build_is_never_taken_for_a_finished_one(
    setting: Setting, number: int
) -> None:
    process = setting.start(STALL + ENSURE)
    read_until(process, "stalled")
    (folder_of(setting) / "half-written").touch()
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    assert not is_built("tiny", setting.cache)
    assert folder_of(setting).exists() == (number != signal.SIGINT)
    found = setting.ensure()
    assert versions(found.python) == {"alpha": "1.0", "beta": "2.0"}
    assert not (folder_of(setting) / "half-written").exists()


@pytest.mark.parametrize("damage", ["marker", "garbage", "interpreter"])
def test_a_damaged_environment_is_made_anew(setting: Setting, damage: str) -> None:
    found = setting.ensure()
    if damage == "marker":
        (folder_of(setting) / MARKER).unlink()
    elif damage == "garbage":
        (folder_of(setting) / MARKER).write_text("[")
    else:  # the system's Python it linked to was removed
        found.python.unlink()
        found.python.symlink_to("/usr/bin/no-such-python")
    assert not is_built("tiny", setting.cache)
    assert versions(setting.ensure().python) == {"alpha": "1.0", "beta": "2.0"}


def failure(setting: Setting) -> MachineCannot:
    with pytest.raises(MachineCannot) as caught:
        setting.ensure()
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert not folder_of(setting).exists()
    assert not is_built("tiny", setting.cache)
    return caught.value


def test_other_bytes_under_the_same_name_are_refused(setting: Setting) -> None:
    locked = setting.lock.read_text()
    write_wheel(setting.wheels, "alpha", "1.0", size=11)
    error = failure(setting)
    assert "is not the locked one" in error.message
    assert error.code == "E422"
    assert setting.lock.read_text() == locked


def test_a_lock_without_hashes_is_refused(setting: Setting) -> None:
    setting.lock.write_text(setting.lock.read_text() + "delta==1.0\n")
    write_wheel(setting.wheels, "delta", "1.0")
    assert "delta" in failure(setting).message


def test_without_network_the_next_step_is_named(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    error = failure(setting)
    assert "the package index cannot be reached" in error.message
    assert "PIP_INDEX_URL" in error.hint
    assert error.code == "E421"


def test_an_index_that_lacks_a_package_is_blamed(setting: Setting) -> None:
    for wheel in setting.wheels.glob("beta*"):
        wheel.unlink()
    error = failure(setting)
    assert "your package index lacks a locked package" in error.message


def test_a_package_without_a_wheel_for_this_machine_is_told(setting: Setting) -> None:
    (wheel,) = setting.wheels.glob("beta*")
    wheel.rename(wheel.with_name("beta-2.0-cp39-cp39-win_amd64.whl"))
    error = failure(setting)
    assert "has no wheel for this machine" in error.message
    assert error.code == "E424"


def test_a_file_size_limit_is_told(setting: Setting) -> None:
    setting.lock.write_text(write_wheel(setting.wheels, "alpha", "1.0", size=3_000_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        error = failure(setting)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "a file grew beyond the size limit" in error.message
    assert versions(setting.ensure().python) == {"alpha": "1.0"}


def test_a_full_disk_is_told(setting: Setting) -> None:
    """A small file system in memory where we may mount one; /dev/full's words where not."""
    setting.lock.write_text(write_wheel(setting.wheels, "alpha", "1.0", size=3_000_000))
    setting.cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(setting.cache)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        with pytest.raises(OSError, match="No space left on device") as caught:
            Path("/dev/full").write_bytes(b"x")
        assert environments._EXPLANATIONS[0][0].search(str(caught.value))
        return
    try:
        error = failure(setting)
    finally:
        subprocess.run(["umount", str(setting.cache)], check=True)
    assert "no space left on the disk" in error.message
    assert error.code == "E410"


def test_an_environment_that_is_not_as_locked_is_refused(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = environments._Build._uv

    def smuggle(build: environments._Build, *arguments: str) -> str:
        if "--dry-run" in arguments:
            shutil.rmtree(next(build.folder.glob("lib/*/site-packages/beta-*")))
        return real(build, *arguments)

    monkeypatch.setattr(environments._Build, "_uv", smuggle)
    error = failure(setting)
    assert "is not as locked after its installation" in error.message
    assert error.code == "E423"


def test_a_prebuilt_environment_of_an_image_is_used(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    prebuilt = ensure("tiny", image, setting.said.append)
    monkeypatch.setenv("SPARK_RECIPES_PREBUILT", str(image))
    assert is_built("tiny", setting.cache)
    assert setting.ensure() == prebuilt
    assert not setting.cache.exists()
    shutil.rmtree(image)
    assert setting.cache in setting.ensure().python.parents


def test_a_role_without_a_lock_is_our_installations_fault(setting: Setting) -> None:
    with pytest.raises(MachineCannot, match="there is no environment 'nothing'"):
        identity("nothing")


LOCK_WITH_TORCH = """alpha==1.0 \\
    --hash=sha256:11
    # via a test
cuda-bindings==13.5.0 ; sys_platform == 'linux' \\
    --hash=sha256:22
nvidia-cublas==13.1 ; sys_platform == 'linux' \\
    --hash=sha256:33
torch==2.13.0 \\
    --hash=sha256:44
    # via alpha
torchmetrics==1.0 \\
    --hash=sha256:55
triton==3.7.1 ; sys_platform == 'linux' \\
    --hash=sha256:66
"""


def test_what_the_base_supplies_is_left_out_and_nothing_else() -> None:
    left = without_supplied(LOCK_WITH_TORCH)
    assert [line.split("==")[0] for line in left.splitlines() if "==" in line] == [
        "alpha",
        "torchmetrics",
    ]
    assert "--hash=sha256:11" in left
    assert "--hash=sha256:66" not in left


@pytest.fixture
def base(setting: Setting, tmp_path: Path) -> Path:
    """A system interpreter with its own torch, as on NVIDIA's images, and a lock that has torch."""
    torch = write_wheel(setting.wheels, "torch", "2.13.0")
    setting.lock.write_text(write_wheel(setting.wheels, "alpha", "1.0") + torch)
    root = tmp_path / "base"
    real = Path(sys.executable).resolve()
    site = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    site.mkdir(parents=True)
    for child in Path(os.__file__).parent.iterdir():
        if child.name != "site-packages":
            (site / child.name).symlink_to(child)
    (site / "site-packages").mkdir()
    (site / "site-packages" / "torch.py").write_text("VERSION = 'of the base'\n")
    info = site / "site-packages" / "torch-2.9.0a0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0a0\n")
    (root / "bin").mkdir()
    python = root / "bin" / "python3"
    python.write_bytes(real.read_bytes())
    python.chmod(0o755)
    for library in (real.parent.parent / "lib").glob("libpython*"):
        (root / "lib" / library.name).symlink_to(library)
    return python


def import_torch(environment: environments.Environment) -> str:
    code = "import alpha, torch; print(alpha.VERSION, torch.VERSION)"
    return subprocess.run([environment.python, "-I", "-c", code],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip


def test_on_a_base_with_torch_the_bases_torch_is_used(
    setting: Setting, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = identity("tiny")
    assert import_torch(setting.ensure()) == "1.0 2.13.0"
    monkeypatch.setenv("SPARK_RECIPES_BASE_PYTHON", str(base))
    assert identity("tiny") != bare
    assert import_torch(setting.ensure()) == "1.0 of the base"


def test_an_image_says_what_its_base_supplies(
    setting: Setting, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = identity("tiny")
    file = tmp_path / "base.json"
    monkeypatch.setattr(environments, "BASE_FILE", file)
    facts = {"python": str(base), "supplied": {"torch": "2.9.0a0"}, "constraint_sha256": "00"}
    file.write_text(json.dumps(facts))
    with_torch = identity("tiny")
    assert with_torch != bare
    assert import_torch(setting.ensure()) == "1.0 of the base"
    file.write_text(json.dumps({**facts, "constraint_sha256": "01"}))
    assert identity("tiny") not in (bare, with_torch)
    file.write_text(json.dumps({"python": str(base), "supplied": {}}))
    assert identity("tiny") == bare


def test_an_environment_without_torch_does_not_depend_on_the_base(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = identity("tiny")
    monkeypatch.setenv("SPARK_RECIPES_BASE_PYTHON", str(tmp_path / "no-such-python"))
    assert identity("tiny") == bare


def test_a_base_interpreter_that_does_not_run_is_told(
    setting: Setting, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_BASE_PYTHON", str(tmp_path / "no-such-python"))
    with pytest.raises(MachineCannot, match="which does not run"):
        identity("tiny")
