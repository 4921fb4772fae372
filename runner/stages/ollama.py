"""Create the model in Ollama, and prove that it sees the tokens it was trained on.

Created through the API with explicit template, stop strings, system prompt and parameters; where no
Go template renders as the model was trained, without one, and the GGUF file's own Jinja is
rendered. Then every reference prompt must become the same token ids (stages/deployment/parity.py),
and a smoke question must be answered and stop by itself.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.stages.contract import Class, Context, Outputs, Upstream
from runner.stages.deployment import parity
from runner.stages.deployment.prompts import read_prompts
from runner.stages.export.gguf_metadata import PromptMetadata
from runner.stages.gguf import file_name
from runner.stages.models import shrunken
from runner.stages.templates import go_template
from runner.system import ollama as system
from runner.system.local_server import NoAnswer, Refused, ask

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "ollama"
VERSION = 1
OUTPUTS = {"create.json": Class.EFFECT, "parity.json": Class.PORTABLE}
NEEDS = ("gguf", "prepare")
ENVIRONMENT = None
TOOLS = ("llama.cpp", "ollama")
DEVICE = True

SMOKE_TOKENS = 256
JINJA_SINCE = (0, 30)
ANSWER_SECONDS = 600.0


def wanted(recipe: Recipe) -> bool:
    """Does the recipe deploy to Ollama?"""
    return recipe.ollama is not None


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The deployed file, the reference prompts, and the ollama section. Pure."""
    section = recipe.ollama
    assert section is not None
    return {
        "name": section.name,
        "parameters": dict(section.parameters),
        "smoke": section.smoke,
        "file": upstream["gguf"].digest(file_name(recipe, section.quantize)),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
        **shrunken.key_fact(recipe),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Create the model and check it; writes create.json and parity.json.

    Raises StageFailed when no template fits (E551), Ollama refuses (E550), a prompt's tokens differ
    (E552), the smoke question is not answered (E553), or Ollama goes away (E554).
    """
    section = recipe.ollama
    assert section is not None
    file = inputs["gguf"].path(file_name(recipe, section.quantize))
    digest = inputs["gguf"].files[file.name].sha256
    prompts = read_prompts(inputs["prepare"].path("prompts.jsonl"))
    told = PromptMetadata(file)
    bos = told.bos(context.tool("llama.cpp"), context.log_folder / "bos-tokenizer.log")
    choice = go_template.choose(prompts, bos, recipe.data.system)
    request = create_request(section.name, file.name, digest, choice, section.parameters)
    with open_server(context) as server:
        check_renders(server.version, choice)
        create(server.url, request, file)
        stored = check_stored(server.url, request, told.template)
        context.progress(1, 3, message="created")
        tokenised = file_for_tokens(server, file, digest, stored.model)
        report = parity.check(server.url, section.name, tokenised, prompts, context)
        context.progress(2, 3, message=f"{len(prompts)} prompts give the trained tokens")
        must_stop = not shrunken.is_shrunken(recipe)
        answer = smoke(server.url, section.name, section.smoke, must_stop=must_stop)
        context.progress(3, 3, message=f"answered: {answer}")
    context.measure("smoke_answer", answer)
    context.measure("template_family", choice.family)
    own = stored.template == system.text_digest(told.template)
    context.measure("rendered_by", "the model's own Jinja" if own else "the Go template")
    _write(folder / "create.json", {"request": request, "stored": as_json(stored)})
    _write(folder / "parity.json", report)


@contextlib.contextmanager
def open_server(context: Context) -> Iterator[system.Server]:
    """The Ollama to use, started if none runs. Which one it was is a measure: machines differ.

    What goes wrong with it inside of the block becomes StageFailed (E550, E554).
    """
    home = context.scratch / "ollama"
    home.mkdir(exist_ok=True)
    with system.serving(
        lambda: context.tool("ollama"),
        folder=home,
        log=context.log_folder / "ollama-server.log",
        say=lambda message: context.progress(0, 1, message=message),
        own_models=context.ollama_models,
    ) as server:
        about = {"version": server.version, "where": server.where, "url": server.url}
        context.measure("server", {**about, "program": str(server.program or "")})
        with _in_words(server):
            yield server


@contextlib.contextmanager
def _in_words(server: system.Server) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise StageFailed(
            f"Ollama at {server.url} refused a request: {error}",
            hint="read ollama-server.log in the run's logs, or the log of your own server",
            code="E550",
            stage=NAME,
        ) from error
    except (NoAnswer, ConnectionError) as error:
        how = "stopped by itself" if server.ended() else "does not answer any more"
        raise StageFailed(
            f"Ollama {how} in the middle of the stage ({error})",
            hint="see its log for the reason (memory?), then run the same command again",
            code="E554",
            stage=NAME,
        ) from error


def create_request(
    name: str,
    file: str,
    digest: str,
    choice: go_template.Choice,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of POST /api/create; the same on every machine."""
    request: dict[str, Any] = {
        "model": name,
        "files": {file: f"sha256:{digest}"},
        "parameters": dict(parameters),
    }
    if choice.template is not None:
        request["template"] = choice.template
    if choice.stop:
        request["parameters"]["stop"] = list(choice.stop)
    if choice.system:
        request["system"] = choice.system
    return request


def check_renders(version: str, choice: go_template.Choice) -> None:
    """Raises StageFailed (E551) when this server cannot render as `choice` asks."""
    if choice.kind == "go":
        return
    if choice.system == "":
        raise StageFailed(
            f"{choice.closest}\nThe model's own Jinja would, but Ollama cannot store data.system "
            "where it is empty",
            hint="leave data.system out or write a text, or choose a data.chat_template of a "
            "known family (docs/templates.md)",
            code="E551",
            stage=NAME,
        )
    if _numbers(version) < JINJA_SINCE:
        raise StageFailed(
            f"{choice.closest}\nThe model's own Jinja is rendered by Ollama "
            f"{'.'.join(map(str, JINJA_SINCE))} and newer; this one is {version}",
            hint="use a newer Ollama, or choose a data.chat_template of a known family "
            "(docs/templates.md)",
            code="E551",
            stage=NAME,
        )


def _numbers(version: str) -> tuple[int, ...]:
    """(0, 32, 15) of `0.32.15` or `0.32.15-rc1`; nothing of another text, which is no number."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(number or 0) for number in found.groups()) if found else ()


def create(url: str, request: Mapping[str, Any], file: Path) -> None:
    """Send the file, unless the server has it, and create the model.

    Raises StageFailed (E550) when the server refuses, NoAnswer when it goes away.
    """
    import httpx
    import ollama

    (digest,) = request["files"].values()
    try:
        with ollama.Client(host=url, trust_env=False, timeout=None) as client:
            if not has_blob(url, digest):
                client.create_blob(file)
            client.create(stream=False, **request)
    except httpx.HTTPError as error:
        raise NoAnswer(f"{url}: {error or type(error).__name__}") from error
    except ollama.ResponseError as error:
        raise StageFailed(
            f"Ollama does not create {request['model']}: {error.error}",
            hint="read ollama-server.log in the run's logs, or the log of your own server",
            code="E550",
            stage=NAME,
        ) from error


def has_blob(url: str, digest: str) -> bool:
    """Does the server have a file with this digest (`sha256:` and hex) already?

    Asked first because a server that has it answers before it has read the upload, which then
    breaks off.
    """
    try:
        ask(url, "HEAD", f"/api/blobs/{digest}", timeout=60.0)
    except Refused:
        return False
    return True


def check_stored(url: str, request: Mapping[str, Any], jinja: str) -> system.Stored:
    """What the server has stored; raises StageFailed (E550) when it is not what was sent.

    `jinja` is the template in the file. A server that renders it itself shows it in place of the Go
    template: it does so without one, and where only the Jinja knows of tools or thinking.
    """
    stored = system.stored_online(url, request["model"])
    if stored is None:
        raise StageFailed(
            f"Ollama said that it created {request['model']}, but it has no such model",
            hint="run the same command again",
            code="E550",
            stage=NAME,
        )
    accepted = {
        "template": {system.text_digest(request.get("template")), system.text_digest(jinja)},
        "system": {system.text_digest(request.get("system"))},
    }
    for what, digests in accepted.items():
        if getattr(stored, what) not in digests:
            raise StageFailed(
                f"Ollama stored another {what} for {request['model']} than the one it was sent",
                hint="use the pinned version of Ollama, or tell us the version",
                code="E550",
                stage=NAME,
            )
    return stored


def file_for_tokens(server: system.Server, file: Path, sent: str, stored: str) -> Path:
    """The GGUF file to tokenise with: the stored one, or the sent one where they are the same.

    A server elsewhere that rewrote the file cannot be read from here; then the sent file stands in
    for it, and the token counts of the server's own replies must agree.
    """
    if stored != sent and server.models is not None:
        blob = system.blob_path(server.models, stored)
        if blob.is_file():
            return blob
    return file


def smoke(url: str, name: str, question: str, *, must_stop: bool = True) -> str:
    """The answer to one question. Raises StageFailed (E553) when it is empty or does not stop.

    Without `must_stop` any answer will do, also none.
    """
    reply = ask(
        url,
        "POST",
        "/api/chat",
        {
            "model": name,
            "messages": [{"role": "user", "content": question}],
            "stream": False,
            "options": {"temperature": 0, "num_predict": SMOKE_TOKENS},
        },
        timeout=ANSWER_SECONDS,
    )
    answer = str(reply["message"]["content"]).strip()
    if not must_stop or (reply.get("done_reason") == "stop" and answer):
        return answer
    problem = "nothing" if not answer else f"{SMOKE_TOKENS} tokens without an end: {answer[:200]!r}"
    raise StageFailed(
        f"asked {question!r}, {name} answered {problem}",
        hint="ask something that the data teaches (ollama.smoke), or train longer; see whether the "
        "answers in the data end as the template does",
        code="E553",
        stage=NAME,
    )


def probe(recipe: Recipe, outputs: Outputs) -> str:
    """Why the created model is no longer in Ollama as it was created; "" while it is.

    Asks a server on the loopback, or reads the models folder where none runs. Writes nothing. A
    server elsewhere is not asked while planning, so there the stage runs each time; it takes
    seconds.
    """
    created = json.loads(outputs.path("create.json").read_text(encoding="utf-8"))
    name, url = created["request"]["model"], system.server_url()
    if not system.may_be_asked_while_planning(url):
        return f"the Ollama at {url} is on another machine, which planning does not ask"
    if not system.answers(url):
        return _probe_folder(created, name)
    try:
        stored = system.stored_online(url, name, timeout=system.LOOK_SECONDS)
    except (NoAnswer, Refused) as error:
        return f"Ollama does not tell about {name}: {error}"
    if stored is None:
        return f"Ollama has no model {name} any more"
    return "" if as_json(stored) == created["stored"] else f"{name} in Ollama was changed"


def _probe_folder(created: Mapping[str, Any], name: str) -> str:
    models = system.models_folder()
    layers = system.layers_offline(models, name)
    if layers is None:
        return f"no Ollama answers, and {models} has no model {name}"
    stored, request = created["stored"], created["request"]
    template = system.text_digest(request.get("template"))  # stored: the one that is rendered
    texts = {system.TEMPLATE_LAYER: template, system.SYSTEM_LAYER: stored["system"]}
    expected = {system.MODEL_LAYER: stored["model"], **texts}
    parameters = system.blob_path(models, layers.get(system.PARAMETERS_LAYER, ""))
    same = all(layers.get(kind) == digest for kind, digest in expected.items())
    try:
        same = same and json.loads(parameters.read_bytes()) == request["parameters"]
    except (OSError, ValueError):
        same = False
    return "" if same else f"{name} in {models} was changed"


def as_json(stored: system.Stored) -> dict[str, Any]:
    """What was stored, for create.json."""
    return {
        "model": stored.model,
        "template": stored.template,
        "system": stored.system,
        "parameters": list(stored.parameters),
    }


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
