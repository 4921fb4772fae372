"""One adapter on processors with and without AVX-512, made on one machine by masking CPUID.

Masking needs a processor with AVX-512 whose CPUID can be trapped. Elsewhere these tests are not
collected: there is nothing to cap, or nothing to compare it with.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_train_native import LORA, SETTINGS
from tests.tiny_model import write_tiny_model
from tests.training_runs import ScriptRun, documents, write_tokens

_FLAGS = set(
    Path("/proc/cpuinfo").read_text().partition("flags\t\t:")[2].partition("\n")[0].split()
)
MASKABLE = {"cpuid_fault", "avx512f", "avx512bw", "avx512vl"} <= _FLAGS
# what the processor's own choice would be, without the cap
UNCAPPED = {"MKL_CBWR": "AUTO"}


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that hides what is newer than AVX2."""
    source = Path(__file__).parents[1] / "processor_mask" / "mask_cpuid.c"
    library = tmp_path_factory.mktemp("mask") / "mask_cpuid.so"
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture(scope="module")
def adapter(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., bytes]:
    """Train in a new process with more variables; the adapter's bytes."""
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "model")

    def train(**env: str) -> bytes:
        place = tmp_path_factory.mktemp("training")
        packs = [documents(3, seed=seed) for seed in range(4)]
        settings = SETTINGS | {"packing": True, "max_steps": 2, "warmup_steps": 0, "adapter": LORA}
        run = ScriptRun(
            environment_python("native"),
            "train_native",
            {"settings": settings, "save_steps": 1000},
            {
                "model": model,
                "tokens": write_tokens(place / "train.tokens.safetensors", packs, packed=True),
                "template": model / "chat_template.jinja",
            },
            place,
        )
        result = run.finish_cold(**env)
        assert result.status == 0, result.log
        return result.files()["adapter/adapter_model.safetensors"]

    return train


if MASKABLE:

    def test_the_cap_gives_one_adapter_with_and_without_avx512(
        adapter: Callable[..., bytes], mask: Path
    ) -> None:
        newer = adapter()
        assert adapter(LD_PRELOAD=str(mask)) == newer
        assert adapter(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1") == newer

    def test_without_the_cap_the_same_comparison_fails(
        adapter: Callable[..., bytes], mask: Path
    ) -> None:
        newer = adapter(ATEN_CPU_CAPABILITY="avx512", **UNCAPPED)
        older = adapter(ATEN_CPU_CAPABILITY="avx2", LD_PRELOAD=str(mask), **UNCAPPED)
        assert newer != older

    def test_the_cap_gives_one_adapter_on_another_makers_processors(
        adapter: Callable[..., bytes], mask: Path
    ) -> None:
        other = {"LD_PRELOAD": str(mask), "MASK_VENDOR": "amd"}
        assert adapter(**other, MASK_KEEP="avx512") == adapter(**other)
