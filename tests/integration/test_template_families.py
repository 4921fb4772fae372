"""Every family of chat templates, from rows to the real Ollama: the same tokens everywhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from runner.errors import StageFailed
from runner.scripts.data.tokens.parity_cases import cases
from runner.stages import gguf
from runner.stages import ollama as stage
from runner.stages.deployment import parity
from runner.stages.deployment.prompts import Prompt, read_prompts
from runner.stages.export import conversion
from runner.stages.export.gguf_metadata import PromptMetadata
from runner.stages.templates import gguf_template, go_template, shipped_templates
from runner.stages.templates.families import FAMILIES
from runner.stages.templates.families.layout import Family
from runner.stages.templates.go_template import Choice
from runner.store.digest import file_sha256
from runner.system import ollama
from tests import shrunken
from tests.family_models import KINDS, Kind, write_family_model
from tests.gguf_files import write_gguf_of_model
from tests.integration.conftest import ContextFor
from tests.joined_cases import JOINED_CASES
from tests.script_runs import ScriptRun, run_script
from tests.training_runs import WarmInterpreter

pytestmark = pytest.mark.xdist_group("ollama")

# This Ollama prefers a Jinja that knows of tools or thinking to a Go template that does not.
RENDERED_BY_JINJA = ("qwen2.5", "qwen3", "qwen3-thinking", "deepseek")
CHATML_TEMPLATE = FAMILIES[0].layouts[0].go_template()
SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
ANSWERS = ("One. ", "Two", "Three!")
CONVERSATION = [
    {"role": role, "content": content}
    for question, answer in zip(("First?", "Second?", "Third?"), ANSWERS, strict=True)
    for role, content in (("user", question), ("assistant", answer))
]


@dataclasses.dataclass
class Made:
    """A kind's prepared rows and its GGUF file; `bare`: the same without a template."""

    kind: Kind
    model: Path
    run: ScriptRun
    prompts: list[Prompt]
    file: Path
    bare: Path
    choice: Choice


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def made(
    request: pytest.FixtureRequest,
    environment_python: Callable[[str], Path],
    llama_cpp: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    kind = request.param
    place = tmp_path_factory.mktemp(kind.name)
    model = write_family_model(place / "model", kind)
    run = prepared(environment_python("data"), place, model, kind)
    assert run.returncode == 0, run.error
    prompts = read_prompts(run.folder / "prompts.jsonl")
    # The merged model carries the template that prepare wrote.
    template = (run.folder / "chat_template.jinja").read_text(encoding="utf-8")
    bos = go_template.Bos(0, kind.special[0], kind.adds_bos)
    choice = go_template.choose(prompts, bos, kind.system)
    if choice.kind == "jinja":
        template = go_template.marked(template)
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    file = finished(model, place / f"{kind.name}.gguf", llama_cpp, kind)
    (model / "chat_template.jinja").unlink()
    bare = finished(model, place / f"{kind.name}-bare.gguf", llama_cpp, kind)
    assert PromptMetadata(file).bos(llama_cpp, place / "log") == bos
    return Made(kind, model, run, prompts, file, bare, choice)


def finished(model: Path, file: Path, llama_cpp: Path, kind: Kind) -> Path:
    """The model as a GGUF file that llama-quantize wrote."""
    raw, told = file.with_suffix(".raw"), file.with_suffix(".told")
    norms = {
        f"blk.{layer}.attn_{which}_norm.weight": np.ones(16, np.float32)
        for layer in (0, 1)
        for which in ("q", "k")
        if kind.architecture == "qwen3"
    }
    write_gguf_of_model(model, raw, extra=norms, architecture=kind.architecture)
    adds = f"tokenizer.ggml.add_bos_token=bool:{str(kind.adds_bos).lower()}"
    quantize = llama_cpp / "bin" / "llama-quantize"
    for words in (["--override-kv", adds, raw, told], [told, file]):  # twice: see the stage gguf
        subprocess.run([quantize, *words, "COPY"], check=True, capture_output=True)
    return file


def prepared(python: Path, place: Path, model: Path, kind: Kind) -> ScriptRun:
    rows = place / "rows.jsonl"
    rows.write_text(json.dumps({"messages": CONVERSATION}) + "\n", encoding="utf-8")
    described = {"name": "rows.jsonl", "format": "messages", "input": "rows"}
    settings = {
        "seed": 42,
        "system": kind.system,
        "max_length": 512,
        "too_long": "error",
        "packing": False,
        "fraction": 0.0,
        "template": None,
        "train": [described],
        "validation": [described],
    }
    inputs = {"model": model, "rows": rows}
    return run_script(python, "prepare", settings, inputs, place / "run", HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def server(
    ollama_install: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ollama.Server]:
    """One pinned server for all kinds, with a models folder of its own."""
    home = tmp_path_factory.mktemp("ollama")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OLLAMA_HOST", raising=False)
        patch.setenv("OLLAMA_MODELS", str(home / "models"))
        patch.setattr(ollama, "USUAL_URL", "http://127.0.0.1:9")
        patch.setattr(ollama, "find_program", lambda: ollama_install / "bin" / "ollama")
        with ollama.serving(
            lambda: ollama_install, folder=home, log=home / "server.log"
        ) as running:
            yield running


def deployed(
    server: ollama.Server, made: Made, file: Path, choice: Choice, context: Any
) -> dict[str, Any]:
    """The parity report after creating the model with `choice`. Raises StageFailed."""
    name = f"{made.kind.name}-test"
    digest = file_sha256(file)
    request = stage.create_request(name, file.name, digest, choice, {"num_ctx": 2048})
    stage.create(server.url, request, file)
    assert stage.check_stored(server.url, request, PromptMetadata(file).template).model == digest
    return parity.check(server.url, name, file, made.prompts, context)


def test_the_family_is_found_and_the_real_server_sees_the_trained_tokens(
    made: Made, server: ollama.Server, context_for: ContextFor
) -> None:
    assert made.choice.family == made.kind.family
    assert made.choice.kind == ("go" if made.kind.family else "jinja")
    report = deployed(server, made, made.file, made.choice, context_for(stage))
    hard = [name for name in report["prompts"] if name.startswith("hard-")]
    assert len(hard) == len(cases()) - made.kind.left_out
    assert made.run.measures["parity_prompts_refused"] == made.kind.left_out
    assert sum(made.run.measures["parity_prompts_left_out"].values()) == made.kind.left_out
    assert len(report["counted_in_replies"]) == parity.WITNESSES
    if made.kind.name in RENDERED_BY_JINJA:
        # An older Ollama takes the Go template, as this one does for a file without Jinja.
        report = deployed(server, made, made.bare, made.choice, context_for(stage, "bare"))
        assert len(report["prompts"]) == len(made.prompts)


def test_every_shipped_template_and_every_family_is_among_the_kinds() -> None:
    families = {kind.family for kind in KINDS}
    assert families == {"", *(family.name for family in FAMILIES)}
    texts = {kind.template for kind in KINDS}
    for name in shipped_templates.names():
        assert shipped_templates.path_of(name).read_text(encoding="utf-8") in texts


def test_no_prompt_begins_with_two_bos(made: Made) -> None:
    for prompt in made.prompts:
        assert prompt.ids[:2] != (0, 0)
    writes = "bos_token" in made.kind.template or made.kind.name.startswith("llama2")
    assert all((prompt.ids[0] == 0) == writes for prompt in made.prompts)


def test_answers_alone_are_trained_on_with_their_end(made: Made) -> None:
    tensors = load_file(made.run.folder / "train.tokens.safetensors")
    ids, mask = tensors["input_ids"].tolist(), tensors["labels_mask"].tolist()
    spans = list(pairwise(tensors["offsets"].tolist()))
    assert len(spans) == made.kind.documents
    trained = [
        text
        for begin, end in spans
        for text in trained_texts(made.kind, ids[begin:end], mask[begin:end])
    ]
    # A template may put an empty thought before an answer, and white space around it.
    end = made.kind.special[1]
    assert all(text.endswith(end) for text in trained)
    bare = [text.removesuffix(end).rpartition("</think>")[2].strip() for text in trained]
    assert bare == [answer.strip() for answer in ANSWERS]


def trained_texts(kind: Kind, ids: list[int], mask: list[int]) -> list[str]:
    """The text of each run of trained tokens."""
    signs = [*kind.special]
    texts, run = [], b""
    for token, trained in [*zip(ids, mask, strict=True), (0, 0)]:
        if trained:
            known = token < len(signs)
            run += signs[token].encode() if known else bytes([token - len(signs)])
        elif run:
            texts.append(run.decode())
            run = b""
    return texts


def test_a_wrong_template_of_the_family_fails_the_gate(
    made: Made, server: ollama.Server, context_for: ContextFor
) -> None:
    """One more space before the answer, as when a near relative's template was taken."""
    template = (made.choice.template or CHATML_TEMPLATE) + " "
    wrong = dataclasses.replace(made.choice, template=template, kind="go")
    with pytest.raises(StageFailed) as caught:
        deployed(server, made, made.bare, wrong, context_for(stage))
    assert caught.value.code == "E552"
    assert "rendered:" in caught.value.message
    assert "in training" in caught.value.message


# --- tokenizers of pieces with byte fallback, through llama.cpp's own converter

# Shrunken models: config, a shipped template in place of its own, family, name of the recipe. By
# the name llama.cpp decides what it does with white space, and the name is the user's.
PIECES = [
    ("gemma-2-2b", None, "", "pieces"),
    ("gemma-2-2b", "gemma", "gemma", "pieces"),
    ("gemma-3-1b", "gemma", "gemma", "pieces"),
    ("mistral-7b-v0.3", None, "", "pieces"),
    ("mistral-7b-v0.3", "mistral", "mistral", "pieces"),
    ("mistral-7b-v0.3", "llama2", "llama2", "pieces"),
    ("mistral-7b-v0.3", "zephyr", "zephyr", "pieces"),
    ("mistral-7b-v0.3", "zephyr", "zephyr", "better-than-Phi-3"),
    ("phi-3-mini-4k", None, "phi3", "pieces"),
    ("phi-3-mini-4k", None, "phi3", "my-phi3"),
]


@pytest.mark.parametrize(("config", "template", "family", "name"), PIECES)
def test_pieces_too_are_the_trained_tokens_on_the_real_server(
    config: str,
    template: str | None,
    family: str,
    name: str,
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    server: ollama.Server,
    llama_cpp: Path,
    context_for: ContextFor,
    tmp_path: Path,
) -> None:
    """Spaces at the start of a text and after special tokens are where these differ."""
    source = shrunken.write_source(config, tmp_path / "source")
    shrunk = shrunken.shrink(warm, environment_python("native"), source, tmp_path / "shrunken")
    assert shrunk.status == 0, shrunk.log
    model = shrunk.folder / "model"
    if template is not None:
        shutil.copy(shipped_templates.path_of(template), model / "chat_template.jinja")
    kind = Kind(name, (), "", family)
    run = prepared(environment_python("data"), tmp_path, model, kind)
    assert run.returncode == 0, run.error
    shutil.copy(run.folder / "chat_template.jinja", model)
    prompts = read_prompts(run.folder / "prompts.jsonl")
    context = context_for(gguf)
    file = exported(name, model, prompts, llama_cpp, context)
    bos = PromptMetadata(file).bos(llama_cpp, tmp_path / "log")
    made = Made(kind, model, run, prompts, file, file, go_template.choose(prompts, bos, None))
    report = deployed(server, made, file, made.choice, context)
    assert made.choice.family == family
    assert len(report["prompts"]) == len(prompts) > len(cases()) / 2


def exported(name: str, model: Path, prompts: list[Prompt], llama_cpp: Path, context: Any) -> Path:
    """The GGUF file, by what the stage does."""
    choice = gguf_template.chosen(prompts, model, context)
    recipe: Any = SimpleNamespace(name=name, merge=SimpleNamespace(dtype="bfloat16"))
    with gguf_template.source_of(model, choice, context) as source:
        converted = conversion.convert(recipe, source, llama_cpp, context)
    gguf_template.remove_needless_bos(converted, choice, llama_cpp, context)
    file: Path = context.scratch / "pieces.gguf"
    gguf.quantize(converted, file, "BF16", None, llama_cpp, context)
    return file


# --- layouts that no kind above has


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_layout_renders_on_the_real_server_as_its_twin_does(
    family: Family, server: ollama.Server, plain: Path
) -> None:
    """The first few of each family, without and with a system prompt that nobody gave."""
    for number, layout in enumerate(family.layouts[:4]):
        for empty in (False, True) if number < 2 else (False,):
            name = f"layout-{family.name}-{number}-{empty}".lower()
            template = layout.go_template("<bos>" if number else "", empty_system=empty)
            choice = Choice(family.name, template, None, family.stop)
            request = stage.create_request(
                name, plain.name, file_sha256(plain), choice, {"num_ctx": 2048}
            )
            stage.create(server.url, request, plain)
            for case, messages in [*cases(), *JOINED_CASES, *TRIMMED]:
                prompt = Prompt(case, "hard", tuple(messages), "", ())
                twin = layout.render(messages, "" if empty else None)
                expected = ("<bos>" if number else "") + twin
                assert parity.rendered(server.url, name, prompt) == expected, (name, case)


TRIMMED = [
    ("all-white-space", [{"role": "user", "content": f"{SPACE}a{SPACE}b{SPACE}"}]),
    ("only-white-space", [{"role": "user", "content": SPACE}]),
    ("no-white-space", [{"role": "user", "content": "\u200ba\ufeff"}]),
    (
        "thoughts",
        [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "a</think>b</think>\n\n c\n"},
            {"role": "user", "content": "a</think>b"},
            {"role": "assistant", "content": "\n</think"},
            {"role": "user", "content": "So?"},
            {"role": "assistant", "content": "</think>"},
            {"role": "user", "content": "So?"},
        ],
    ),
]


@pytest.fixture(scope="module")
def plain(llama_cpp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template."""
    place = tmp_path_factory.mktemp("plain")
    model = write_family_model(place / "model", KINDS[0])
    (model / "chat_template.jinja").unlink()
    return finished(model, place / "plain.gguf", llama_cpp, KINDS[0])
