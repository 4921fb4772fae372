"""Tokens, merged model and GGUF files are the same by whichever code a processor makes run.

The stages' own programs, with the libraries told or made to believe that the processor is another
one. Each way has a control: plain float32 arithmetic by the same libraries, which does differ, or
features that the libraries no longer see. Masks need a processor whose CPUID can be trapped.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.stages import gguf, merge, prepare
from runner.stages.export import conversion
from runner.system import determinism
from tests.integration.conftest import ContextFor
from tests.integration.test_processor_cap import _FLAGS as FLAGS
from tests.integration.test_processor_cap import MASKABLE, mask  # noqa: F401  (fixture)
from tests.portable_model import PREPARED, write_adapter_of, write_rows, write_wide_model

KINDS = ("F16", "Q8_0", "Q4_K_M", "Q6_K", "IQ4_XS")
# Without every set that numpy has its own code for; the names are numpy's.
NUMPY_PLAIN = "all that can be disabled"


@dataclass(frozen=True)
class Way:
    """Variables that lead libraries to other code, and what shows that they did.

    `part`: of another way, tried alone only to see that it does lead elsewhere.
    """

    name: str
    env: dict[str, str]
    shown_by: str  # numbers | features
    part: bool = False

    def __str__(self) -> str:
        return self.name


WAYS = [
    Way(
        "the oldest code of every library",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": NUMPY_PLAIN,
        },
        "numbers",
    ),
    Way("OpenBLAS for Nehalem", {"OPENBLAS_CORETYPE": "Nehalem"}, "numbers", part=True),
    Way("MKL for any processor", {"MKL_CBWR": "COMPATIBLE"}, "numbers", part=True),
    Way(
        "numpy without its own code",
        {"NPY_DISABLE_CPU_FEATURES": NUMPY_PLAIN},
        "features",
        part=True,
    ),
]
if "avx512f" in FLAGS:
    WAYS.append(
        Way(
            "AVX-512, uncapped",
            {
                "ATEN_CPU_CAPABILITY": "avx512",
                "MKL_CBWR": "AUTO",
                "ONEDNN_MAX_CPU_ISA": "ALL",
                "OPENBLAS_CORETYPE": "SkylakeX",
            },
            "numbers",
        )
    )
if MASKABLE:
    WAYS += [
        Way("a processor without AVX-512", {"LD_PRELOAD": "mask"}, "features", part=True),
        Way(
            "a processor without AVX2 and FMA",
            {
                **determinism._CAPS["sse2"],
                "LD_PRELOAD": "mask",
                "MASK_HIDE": "avx2",
                "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
            },
            "features",
        ),
        Way(
            "AMD's processor",
            {"LD_PRELOAD": "mask", "MASK_VENDOR": "amd", "MASK_KEEP": "avx512"},
            "numbers",  # by MKL
        ),
    ]

# Arguments: none. Prints {"numbers": digest of float32 results, "features": what libraries see}.
ASK = """
import hashlib, json
import numpy as np, torch
from numpy._core._multiarray_umath import __cpu_features__ as seen
random = np.random.default_rng(1)
a, b = (random.standard_normal((97, 301), np.float32) for _ in "ab")
x, y = torch.from_numpy(a), torch.from_numpy(b)
made = [a @ b.T, np.exp(a), a.sum(0), (x @ y.T).numpy(), torch.softmax(x, 1).numpy()]
numbers = [hashlib.sha256(np.ascontiguousarray(each)).hexdigest() for each in made]
features = [name for name in sorted(seen) if seen[name]]
features.append(torch.backends.cpu.get_cpu_capability())
print(json.dumps({"numbers": numbers, "features": features}))
"""
NUMPY_SETS = """
from numpy._core._multiarray_umath import __cpu_dispatch__ as own, __cpu_features__ as seen
print(" ".join(name for name in own if seen[name]))
"""


class Chain:
    """Runs the chain's programs with more variables."""

    def __init__(
        self, folder: Path, python: Callable[[str], Path], llama_cpp: Path, library: Path | None
    ) -> None:
        self._python, self._llama_cpp, self._mask = python, llama_cpp, library
        self.model = write_wide_model(folder / "model")
        self.adapter = write_adapter_of(self.model, folder / "adapter", dora=True)
        self.rows = write_rows(folder / "rows.jsonl")

    def env(self, way: Way | None) -> dict[str, str]:
        """The scripts' environment on this way, with masks and numpy's sets filled in."""
        env = {**determinism.script_env(2), **(way.env if way else {})}
        if env.get("NPY_DISABLE_CPU_FEATURES") == NUMPY_PLAIN:
            asked = [str(self._python("export")), "-c", NUMPY_SETS]
            answer = subprocess.run(asked, capture_output=True, text=True, check=True)
            env["NPY_DISABLE_CPU_FEATURES"] = answer.stdout.strip()
        if "LD_PRELOAD" in env:
            env["LD_PRELOAD"] = str(self._mask)
        return env

    def ask(self, way: Way | None) -> dict[str, Any]:
        """What plain arithmetic gives, and which features libraries see."""
        result = subprocess.run(
            [str(self._python("export")), "-c", ASK],
            env=self.env(way),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def run(
        self, way: Way | None, place: Path, context_for: ContextFor, patch: pytest.MonkeyPatch
    ) -> dict[str, str]:
        """Name -> sha256 of all that is claimed to be portable."""
        env = self.env(way)
        patch.setattr(determinism, "script_env", lambda threads: env)
        tokens, merged, files = place / "tokens", place / "merged", place / "files"
        for folder in (tokens, merged, files):
            folder.mkdir(parents=True)
        inputs = {"model": self.model, "train-0": self.rows}
        stage = context_for(prepare, f"{place.name}/prepare")
        stage.run_script("prepare", PREPARED, inputs=inputs, folder=tokens)
        stage = context_for(merge, f"{place.name}/merge")
        inputs = {"model": self.model, "adapter": self.adapter}
        inputs["template"] = tokens / "chat_template.jinja"
        stage.run_script("merge", {"dtype": "bfloat16"}, inputs=inputs, folder=merged)
        recipe: Any = SimpleNamespace(name="wide", merge=SimpleNamespace(dtype="bfloat16"))
        stage = context_for(gguf, f"{place.name}/gguf")
        source = conversion.convert(recipe, merged / "model", self._llama_cpp, stage)
        source.rename(files / "converted.gguf")
        for kind in KINDS:
            written = files / f"{kind}.gguf"
            gguf.quantize(files / "converted.gguf", written, kind, None, self._llama_cpp, stage)
        return {
            path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in (tokens, merged, files)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    environment_python: Callable[[str], Path],
    llama_cpp: Path,
    request: pytest.FixtureRequest,
) -> Chain:
    library = request.getfixturevalue("mask") if MASKABLE else None
    folder = tmp_path_factory.mktemp("code-paths")
    return Chain(folder, environment_python, llama_cpp, library)


@pytest.fixture(scope="module")
def answer(chain: Chain) -> dict[str, Any]:
    """Of the libraries as the scripts' environment tells them."""
    return chain.ask(None)


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """The files of the usual way, once they are made."""
    return {}


def test_asked_twice_the_libraries_say_the_same(chain: Chain, answer: dict[str, Any]) -> None:
    assert chain.ask(None) == answer


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_libraries_do_take_another_way(chain: Chain, answer: dict[str, Any], way: Way) -> None:
    assert chain.ask(way)[way.shown_by] != answer[way.shown_by]


@pytest.mark.parametrize("way", [way for way in WAYS if not way.part], ids=str)
def test_every_portable_file_is_the_same(
    chain: Chain,
    results: dict[str, str],
    way: Way,
    tmp_path: Path,
    context_for: ContextFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not results:
        with pytest.MonkeyPatch.context() as patch:
            results |= chain.run(None, tmp_path / "usual", context_for, patch)
    found = chain.run(way, tmp_path / "way", context_for, monkeypatch)
    assert found == results
    assert {f"files/{kind}.gguf" for kind in KINDS} <= set(found)
    assert {"tokens/train.tokens.safetensors", "merged/model/model.safetensors"} <= set(found)
