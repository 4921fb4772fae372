"""Architectures, storage, adapters and types together: llama.cpp computes what Transformers does.

A shrunken model of a public config gets an adapter by PEFT; the real script merges it, the stage's
own functions convert and quantise, llama-server chooses tokens, and Transformers says of each what
the merged model would have chosen, and how likely it finds every token of the vocabulary.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as library
import numpy as np
import pytest

from runner.errors import StageFailed
from runner.scripts.shrunken_config import WINDOW
from runner.stages import gguf
from runner.stages.export import conversion
from runner.stages.export.gguf_types import KINDS
from runner.system import determinism, process
from runner.system.local_server import Order, ask, start_on_free_port
from tests import shrunken
from tests.integration.conftest import ContextFor
from tests.integration.test_gguf_start import into_shards
from tests.matrix_cases import ALL, ALWAYS_TIED, EVERY_DAY, WITHOUT_WINDOW, Case
from tests.training_runs import ScriptRun, WarmInterpreter

PROGRAM = Path(__file__).resolve().parents[1] / "matrix_models.py"
TOKENS = 6  # chosen after each prompt
BEYOND_WINDOW, SHORT_OF_WINDOW = WINDOW + 32, WINDOW - 32  # tokens of the longest prompt

EVERY = [
    pytest.param(case, id=case.name, marks=() if case in EVERY_DAY else pytest.mark.full)
    for case in ALL
]


# --- the parts, each made once


class Workshop:
    """Warm interpreters, and the models and adapters that several cases share."""

    def __init__(self, place: Path, python: Callable[[str], Path]) -> None:
        self.place, self.python = place, python
        self.native, self.export = (WarmInterpreter(python(role)) for role in ("native", "export"))

    def close(self) -> None:
        self.native.close()
        self.export.close()

    def base(self, case: Case) -> Path:
        """The shrunken model, in one file or several."""
        place = self.place / f"{case.architecture}-{case.embeddings}-{case.storage}"
        model = place / "run" / "out" / "model"
        if not place.exists():
            source = shrunken.write_source(
                case.architecture, place / "source", tie_word_embeddings=case.tied
            )
            run = shrunken.shrink(self.native, self.python("native"), source, place / "run")
            assert run.status == 0, run.log
            assert run.folder / "model" == model
            if case.storage == "sharded":
                into_shards(model)
        return model

    def adapter(self, case: Case) -> Path:
        """An adapter that PEFT wrote."""
        name = f"{case.architecture}-{case.embeddings}-{case.method}-{case.reach}"
        target = self.place / f"adapter-{name}"
        if not target.exists():
            self.run("adapter", str(self.base(case)), str(target), case.method, case.reach)
        return target

    def merged(self, case: Case, place: Path) -> Path:
        """Base and adapter by the real script."""
        (place / "template").write_text("")
        inputs = {
            "model": self.base(case),
            "adapter": self.adapter(case),
            "template": place / "template",
        }
        hashed = {"dtype": case.dtype}
        run = ScriptRun(self.python("export"), "merge", hashed, inputs, place / "merge")
        done = run.finish(self.export)
        assert done.status == 0, done.log
        return done.folder / "model"

    def run(self, *arguments: str) -> None:
        """The program beside Transformers and PEFT."""
        log = self.place / "program.log"
        env = {"PATH": os.environ["PATH"], **determinism.script_env(1)}
        status = self.native.fork([str(PROGRAM), *arguments], self.place, env, log).wait()
        assert status == 0, log.read_text()[-3000:]


class WarmContext:
    """A stage's real context whose converter runs in a fork that has loaded torch already."""

    def __init__(self, context: Any, workshop: Workshop) -> None:
        self._context, self._workshop = context, workshop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def run_program(self, argv: list[str], *, log: str, **how: Any) -> Any:
        if argv[0] != str(self._workshop.python("export")):
            return self._context.run_program(argv, log=log, **how)
        file = self._context.log_folder / f"{log}.log"
        env = {"PATH": os.environ["PATH"], "HOME": str(self._context.scratch), **how["env"]}
        fork = self._workshop.export.fork(argv[1:], self._context.scratch, env, file)
        if fork.wait():
            raise StageFailed("the converter failed", code="E500", stage="gguf", log=str(file))
        return ""


@pytest.fixture(scope="module")
def workshop(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("matrix"), environment_python)
    yield made
    made.close()


def recipe(case: Case) -> Any:
    return SimpleNamespace(name="matrix", merge=SimpleNamespace(dtype=case.dtype))


# --- llama.cpp's side


def replies(case: Case, file: Path, size: int, llama_cpp: Path, log: Path) -> list[Any]:
    """For each prompt the tokens that llama-server chooses, and all `size` probabilities of each.

    Keys and values of attention are kept in float32, as Transformers does.
    """

    def order(port: int) -> Order:
        where = ["--host", "127.0.0.1", "--port", str(port), "--model", str(file), "--offline"]
        exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        small = ["--ctx-size", "256", "--parallel", "1", "--threads", "1", "--no-warmup"]
        program = str(llama_cpp / "bin" / "llama-server")
        return Order([program, *where, *exact, *small], process.child_env({}))

    service, port = start_on_free_port(
        order, name="llama-server", ready_path="/health", folder=log.parent, log=log
    )
    with service:
        url, allowed = f"http://127.0.0.1:{port}", plain_tokens(file)
        return [reply(url, prompt, allowed, size) for prompt in prompts_for(case, size)]


def reply(url: str, prompt: list[int], allowed: list[int], size: int) -> dict[str, Any]:
    forbidden = sorted(set(range(size)) - set(allowed))
    settings = {
        "prompt": prompt,
        "n_predict": TOKENS,
        "n_probs": size,
        "temperature": 0,
        "logit_bias": [[token, False] for token in forbidden],
        "cache_prompt": False,
        "return_tokens": True,
    }
    answer = ask(url, "POST", "/completion", settings, timeout=120)
    steps = answer["completion_probabilities"]
    assert [step["id"] for step in steps] == answer["tokens"]
    assert len(steps) == TOKENS
    given = [{one["id"]: one["logprob"] for one in step["top_logprobs"]} for step in steps]
    rows = [[row[token] for token in range(size)] for row in given]  # before any bias
    return {"prompt": prompt, "tokens": answer["tokens"], "logprobs": rows}


def plain_tokens(file: Path) -> list[int]:
    """Ids of ordinary ASCII text.

    llama-server says nothing of a token at which a character is incomplete, or the text at an end.
    """
    fields = library.GGUFReader(file).fields
    names = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    normal = library.TokenType.NORMAL
    return [
        token
        for token, (name, kind) in enumerate(zip(names, types, strict=True))
        if kind == normal and re.fullmatch("[!-~\u0120\u2581]+", name)
    ]


def prompts_for(case: Case, size: int) -> list[list[int]]:
    """Random ids of the whole vocabulary; where llama.cpp has windows, one goes beyond its own."""
    longest = SHORT_OF_WINDOW if case.architecture in WITHOUT_WINDOW else BEYOND_WINDOW
    random = np.random.default_rng(7)
    return [random.integers(0, size, length).tolist() for length in (5, 40, longest)]


# --- the matrix

# All bounds are in units of the spread (standard deviation) of the logarithms over the vocabulary.
#
# Unquantised: llama.cpp multiplies by F16 and BF16 weights after it has rounded the other side too,
# to 2**-11 and 2**-8. The roundings of a few layers add up: at most 9 of the former and 8 of the
# latter were measured, and 32 are allowed. In float32 the order of sums differs, up to 9e-6.
# Gemma's GELU comes from a table in half precision whatever the weights are, so its float32 has
# F16's bound.
TOLERANCE = {"F32": 5e-5, "F16": 32 * 2**-11, "BF16": 32 * 2**-8}
# Quantised: the mean KL divergence, in units of the squared spread. Between two models that have
# nothing to do with each other it is about 1; about four times the measured maximum is allowed.
DIVERGENCE = {"Q8_0": 2e-3, "Q6_K": 1e-2, "Q5_K_M": 5e-2, "Q4_K_M": 0.2, "IQ4_XS": 0.2}


def tolerance(case: Case, kind: str) -> float:
    """Allowed difference of logarithms of probabilities, in units of their spread."""
    tabled = case.architecture.startswith("gemma") and kind == "F32"
    return TOLERANCE["F16" if tabled else kind]


@pytest.mark.parametrize("case", EVERY)
def test_llama_cpp_computes_what_transformers_does_with_the_merged_model(
    case: Case, workshop: Workshop, context_for: ContextFor, llama_cpp: Path, tmp_path: Path
) -> None:
    merged = workshop.merged(case, tmp_path)
    files = written_files(case, merged, llama_cpp, WarmContext(context_for(gguf), workshop))
    seen = compared(case, merged, files, workshop, llama_cpp)
    print(case.name, json.dumps(seen))
    spread = seen["spread"]
    whole, *quantised = case.files

    allowed = tolerance(case, whole) * spread
    assert seen["merge_error"] < TOLERANCE[whole] * spread, "merged and not merged, by PEFT"
    assert seen["adapter_effect"] > 10 * allowed, "the comparison could not miss the adapter"
    exact = seen["files"][whole]
    assert exact["difference"] < allowed
    noise = 2 * exact["difference"]  # each of the first two may be off by it
    pairs = list(zip(exact["losses"], exact["margins"], strict=True))
    decided = [loss for loss, margin in pairs if margin > noise]
    assert decided == [0.0] * len(decided), "another token was chosen"
    assert len(decided) >= len(pairs) / 3

    for kind in quantised:
        divergence = seen["files"][kind]["kl_divergence"] / spread**2
        assert exact["kl_divergence"] / spread**2 < divergence < DIVERGENCE[kind], kind
        tensors = gguf.read_tensors(files[kind])
        assert KINDS[kind].tensors in {tensor.type for tensor in tensors}
        assert gguf.fallback_of(kind, tensors) is None


def written_files(case: Case, merged: Path, llama_cpp: Path, context: Any) -> dict[str, Path]:
    """One conversion and all types of the case, as the stage does it."""
    files = {kind: context.scratch / f"{kind}.gguf" for kind in case.files}
    with conversion.converted(recipe(case), merged, llama_cpp, context) as source:
        for kind, file in files.items():
            gguf.quantize(source, file, kind, None, llama_cpp, context)
    return files


def compared(
    case: Case, merged: Path, files: dict[str, Path], workshop: Workshop, llama_cpp: Path
) -> dict[str, Any]:
    """What Transformers says of llama.cpp's answers: see tests/matrix_models.py."""
    size = json.loads((merged / "config.json").read_text())["vocab_size"]
    asked = {
        "base": str(workshop.base(case)),
        "adapter": str(workshop.adapter(case)),
        "merged": str(merged),
        "allowed": plain_tokens(files[case.files[0]]),
        "files": {
            kind: replies(case, file, size, llama_cpp, file.with_suffix(".log"))
            for kind, file in files.items()
        },
    }
    place = merged.parent
    (place / "asked.json").write_text(json.dumps(asked))
    workshop.run("compare", str(place / "asked.json"), str(place / "answer.json"))
    answer: dict[str, Any] = json.loads((place / "answer.json").read_text())
    return answer


@pytest.mark.parametrize("architecture", ALWAYS_TIED)
def test_an_output_that_llama_cpp_would_drop_is_refused(
    architecture: str,
    workshop: Workshop,
    context_for: ContextFor,
    llama_cpp: Path,
    tmp_path: Path,
) -> None:
    case = Case(architecture, "untied", "single", "lora", "linear", "bfloat16")
    merged = workshop.merged(case, tmp_path)
    with pytest.raises(StageFailed, match="has an output of its own") as caught:
        conversion.convert(
            recipe(case), merged, llama_cpp, WarmContext(context_for(gguf), workshop)
        )
    assert caught.value.code == "E547"
    assert architecture.partition("-")[0] in caught.value.message.lower()
    assert "modules_to_save" in caught.value.hint
