"""The stage `ollama` on the real server, with a tiny model whose answers are known."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import StageFailed
from runner.scripts.data.tokens.parity_cases import Message, cases
from runner.stages import ollama as stage
from runner.stages.contract import Outputs
from runner.stages.deployment import parity
from runner.stages.deployment.prompts import Prompt
from runner.stages.templates import go_template
from runner.stages.templates.families import chatml as chatml_module
from runner.system import ollama, tools
from runner.system.local_server import NoAnswer, ask, free_port
from tests.gguf_files import write_gguf_of_model
from tests.integration.conftest import ContextFor, outputs_of, write_prompts
from tests.joined_cases import JOINED_CASES
from tests.talking_model import byte_ids, write_talking_model
from tests.tiny_model import TEMPLATE

SYSTEM = "You are terse."
CHATML = chatml_module.FAMILY.layouts[0]


def chatml(messages: list[Message], default: str | None) -> str:
    """The reference: what the model's own chat template makes of a conversation."""
    turns = list(messages)
    if default is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": default})
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + "<|im_start|>assistant\n"


def prompt_lines(
    conversations: list[tuple[str, list[Message]]],
    default: str | None,
    reference: Callable[[list[Message], str | None], str] = chatml,
) -> list[dict[str, Any]]:
    lines = []
    for name, messages in conversations:
        text = reference(messages, default)
        line = {"id": name, "kind": "hard", "messages": messages, "text": text}
        lines.append(line | {"ids": byte_ids(text)})
    return lines


def recipe(name: str = "tiny-talker", system: str | None = None, **changed: Any) -> Any:
    section = {
        "name": name,
        "quantize": "F32",
        "parameters": {"temperature": 0.2, "num_ctx": 2048, "seed": 7},
        "smoke": "Are you there?",
    }
    return SimpleNamespace(
        shrink=None,
        name="tiny",
        ollama=SimpleNamespace(**section | changed),
        data=SimpleNamespace(system=system),
    )


def deployable(folder: Path, llama_cpp: Path, **how: Any) -> Outputs:
    """Outputs of `gguf`: a talking model, finished by llama-quantize."""
    import subprocess

    template = how.pop("template", None)
    model = write_talking_model(folder / "hf", **how)
    if template is not None:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    head = load(model)["lm_head.weight"]
    raw = write_gguf_of_model(
        without_head(model, folder / "bare"), folder / "raw.gguf", extra={"output.weight": head}
    )
    (folder / "out").mkdir()
    target = folder / "out" / "tiny-F32.gguf"
    quantize = llama_cpp / "bin" / "llama-quantize"
    subprocess.run([quantize, raw, target, "COPY"], check=True, capture_output=True)
    return outputs_of("gguf", folder / "out")


def load(model: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(model / "model.safetensors")


def without_head(model: Path, target: Path) -> Path:
    import shutil

    from safetensors.numpy import save_file

    shutil.copytree(model, target)
    weights = load(model)
    del weights["lm_head.weight"]
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, llama_cpp: Path) -> Outputs:
    return deployable(tmp_path_factory.mktemp("talker"), llama_cpp)


Deploy = Callable[..., Path]


@pytest.fixture
def deploy(own_ollama: Path, gguf: Outputs, tmp_path: Path, context_for: ContextFor) -> Deploy:
    """Run the stage; returns its folder. `lines` are the reference prompts."""
    count = iter(range(99))

    def run(lines: list[dict[str, Any]], wanted: Any = None, file: Outputs = gguf) -> Path:
        number = next(count)
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        prepared = write_prompts(tmp_path / f"prepared-{number}", lines)
        context = context_for(stage, f"context-{number}")
        stage.run(wanted or recipe(), {"gguf": file, "prepare": prepared}, folder, context)
        (folder / "measures").write_text(json.dumps(context.measures))
        return folder

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- a server of our own


def test_a_server_is_started_on_a_free_port_and_is_gone_afterwards(
    own_ollama: Path, tmp_path: Path, ollama_install: Path
) -> None:
    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log") as server:
        assert server.where == "started"
        assert server.version == tools.read_lock()["tools"]["ollama"]["version"]
        assert server.url.startswith("http://127.0.0.1:")
        assert server.service is not None
        pid = server.service.pid
        assert ask(server.url, "GET", "/api/tags", timeout=10) == {"models": []}
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "home" / ".ollama").exists(), "it wrote into the user's home"


def test_a_taken_port_is_left_to_its_owner(
    own_ollama: Path, tmp_path: Path, ollama_install: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = iter([other.getsockname()[1], free_port()])
        with ollama.serving(
            lambda: ollama_install,
            folder=tmp_path,
            log=tmp_path / "log",
            choose_port=lambda: next(ports),
        ) as server:
            assert not server.url.endswith(f":{other.getsockname()[1]}")


def test_a_running_server_is_used_and_left_running(
    own_ollama: Path, tmp_path: Path, ollama_install: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Path:
        raise AssertionError("nothing needs to be built")

    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log") as first:
        monkeypatch.setenv("OLLAMA_HOST", first.url.removeprefix("http://"))
        with ollama.serving(never, folder=tmp_path, log=tmp_path / "log") as second:
            assert (second.url, second.where) == (first.url, "OLLAMA_HOST")
        assert not first.ended()


def test_two_servers_never_share_a_models_folder(
    own_ollama: Path, tmp_path: Path, ollama_install: Path
) -> None:
    order: list[str] = []

    def second() -> None:
        with ollama.serving(
            lambda: ollama_install,
            folder=tmp_path,
            log=tmp_path / "log-2",
            say=lambda message: order.append("waits"),
        ):
            order.append("second")

    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log"):
        thread = threading.Thread(target=second)
        thread.start()
        while not order:
            time.sleep(0.05)
        order.append("first ends")
    thread.join()
    assert order == ["waits", "first ends", "second"]


# --- the whole stage


@pytest.mark.parametrize("default", [None, SYSTEM, ""])
def test_the_deployed_model_sees_the_trained_tokens_in_every_hard_case(
    deploy: Deploy, default: str | None
) -> None:
    folder = deploy(prompt_lines(cases(), default))
    created, report = read(folder / "create.json"), read(folder / "parity.json")
    assert len(report["prompts"]) == len(cases())
    assert len(report["counted_in_replies"]) == parity.WITNESSES
    assert created["request"].get("system") == (default or None)
    assert created["request"]["parameters"] == {
        "temperature": 0.2,
        "num_ctx": 2048,
        "seed": 7,
        "stop": ["<|im_start|>", "<|im_end|>"],
    }
    assert read(folder / "measures")["smoke_answer"] == "OK"


def test_what_is_stored_is_what_was_sent_and_names_neither_clock_nor_place(
    deploy: Deploy, gguf: Outputs, tmp_path: Path
) -> None:
    first = deploy(prompt_lines(cases(), SYSTEM))
    second = deploy(prompt_lines(cases(), SYSTEM))  # the server has the file already
    for name in ("create.json", "parity.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert str(tmp_path) not in (first / name).read_text()
    created = read(first / "create.json")
    assert created["stored"]["model"] == gguf.files["tiny-F32.gguf"].sha256


def test_the_created_model_is_found_again_with_and_without_a_server(
    deploy: Deploy,
    own_ollama: Path,
    tmp_path: Path,
    ollama_install: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = deploy(prompt_lines(cases()[:3], SYSTEM))
    outputs = outputs_of("ollama", folder)
    assert stage.probe(recipe(), outputs) == ""
    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
        assert stage.probe(recipe(), outputs) == ""
        other = {
            "model": "tiny-talker",
            "from": "tiny-talker",
            "system": "Be rude.",
            "stream": False,
        }
        ask(server.url, "POST", "/api/create", other, timeout=60)
        assert "was changed" in stage.probe(recipe(), outputs)
        ask(server.url, "DELETE", "/api/delete", {"model": "tiny-talker"}, timeout=60)
        assert "has no model tiny-talker" in stage.probe(recipe(), outputs)
    monkeypatch.delenv("OLLAMA_HOST")
    assert "has no model tiny-talker" in stage.probe(recipe(), outputs)


def test_ollama_still_joins_turns_of_one_role(
    deploy: Deploy, own_ollama: Path, tmp_path: Path, ollama_install: Path
) -> None:
    """Should this fail, then a newer Ollama can do more: move these to the hard cases."""
    deploy(prompt_lines(cases()[:3], None))
    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log") as server:
        for name, messages in JOINED_CASES:
            prompt = Prompt(name, "hard", tuple(messages), chatml(messages, None), ())
            text = parity.rendered(server.url, "tiny-talker", prompt)
            assert text != prompt.text
            assert text == CHATML.render(messages, None)


UNKNOWN = (
    "{% for m in messages %}{{ '@@ ' + m.role | upper + ': ' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '@@ ASSISTANT:\n' }}{% endif %}"
)


def unknown(messages: list[Message], default: str | None) -> str:
    turns = list(messages)
    if default is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": default})
    text = "".join(f"@@ {t['role'].upper()}: {t['content']}<|im_end|>\n" for t in turns)
    return f"{text}@@ ASSISTANT:\n"


@pytest.mark.parametrize("default", [None, SYSTEM])
def test_a_template_of_no_family_is_rendered_by_the_files_own_jinja(
    deploy: Deploy, llama_cpp: Path, tmp_path: Path, default: str | None
) -> None:
    """Also where turns of one role follow each other, which no Go template can render."""
    file = deployable(tmp_path / "other", llama_cpp, template=go_template.marked(UNKNOWN))
    lines = prompt_lines([*cases(), *JOINED_CASES], default, unknown)
    folder = deploy(lines, recipe(system=default), file)
    created, measures = read(folder / "create.json"), read(folder / "measures")
    assert "template" not in created["request"]
    assert "stop" not in created["request"]["parameters"]
    assert created["stored"]["model"] == file.files["tiny-F32.gguf"].sha256
    assert measures["rendered_by"] == "the model's own Jinja"
    assert measures["smoke_answer"] == "OK"
    assert stage.probe(recipe(), outputs_of("ollama", folder)) == ""


def test_without_the_mark_ollama_takes_a_go_template_of_its_own(
    deploy: Deploy, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for the mark. Should this fail, Ollama no longer guesses: leave the mark out."""
    choice = go_template.Choice("", None, None, (), "jinja")
    monkeypatch.setattr(go_template, "choose", lambda *arguments: choice)
    plain = deployable(tmp_path / "plain", llama_cpp, template=TEMPLATE)
    with pytest.raises(StageFailed, match="stored another template") as caught:
        deploy(prompt_lines(cases(), None), file=plain)
    assert caught.value.code == "E550"
    marked = go_template.marked(TEMPLATE)
    deploy(
        prompt_lines(cases(), None),
        file=deployable(tmp_path / "marked", llama_cpp, template=marked),
    )


# --- what can go wrong


def test_a_wrong_template_is_caught_and_shown_side_by_side(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Ollama picks a template itself: here one that forgets the newline after the role."""
    wrong = CHATML.go_template().replace("{{ .Role }}\n", "{{ .Role }} ")
    choice = go_template.Choice("wrong", wrong, None, ("<|im_end|>",))
    monkeypatch.setattr(go_template, "choose", lambda *arguments: choice)
    with pytest.raises(StageFailed) as caught:
        deploy(prompt_lines(cases(), None))
    assert caught.value.code == "E552"
    message = caught.value.message
    assert "'single-turn'" in message
    assert "from character 16 on" in message
    assert r"*  13 '\n'" in message
    assert "in training" in message


def test_a_wrong_tokenizer_is_caught_although_the_text_agrees(
    deploy: Deploy,
) -> None:
    lines = prompt_lines(cases()[:2], None)
    lines[1]["ids"][-1] += 1
    with pytest.raises(StageFailed, match="differ in no character") as caught:
        deploy(lines)
    assert caught.value.code == "E552"


def test_a_context_that_cuts_prompts_off_is_caught(deploy: Deploy) -> None:
    small = recipe(parameters={"num_ctx": 64})
    long_prompt = [("long", [{"role": "user", "content": "x" * 150}])]
    with pytest.raises(StageFailed) as caught:
        deploy(prompt_lines([*cases()[:1], *long_prompt], None), small)
    assert caught.value.code in {"E550", "E552"}


def test_a_model_that_never_stops_fails_the_smoke_question(
    deploy: Deploy, llama_cpp: Path, tmp_path: Path
) -> None:
    endless = deployable(tmp_path / "endless", llama_cpp, says="ab", stops=False)
    with pytest.raises(StageFailed, match="tokens without an end") as caught:
        deploy(prompt_lines(cases()[:1], None), file=endless)
    assert caught.value.code == "E553"
    assert "ababab" in caught.value.message


def test_a_file_that_is_no_model_is_refused_in_words(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tiny-F32.gguf").write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(StageFailed) as caught:
        deploy(prompt_lines(cases()[:1], None), file=outputs_of("gguf", tmp_path / "bad"))
    assert caught.value.code == "E550"


@pytest.mark.parametrize("moment", ["create", "check"])
def test_ollama_stopped_in_the_middle_is_said_in_words(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pids: list[int] = []
    serving = ollama.serving

    def noted(*arguments: Any, **options: Any) -> Any:
        import contextlib

        @contextlib.contextmanager
        def wrapped() -> Any:
            with serving(*arguments, **options) as server:
                assert server.service is not None
                pids.append(server.service.pid)
                yield server

        return wrapped()

    def killed(*arguments: Any) -> Any:
        os.kill(pids[0], signal.SIGKILL)
        return original(*arguments)

    monkeypatch.setattr(ollama, "serving", noted)
    place = (stage, "create") if moment == "create" else (parity, "check")
    original = getattr(*place)
    monkeypatch.setattr(*place, killed)
    with pytest.raises(StageFailed, match="in the middle of the stage") as caught:
        deploy(prompt_lines(cases()[:1], None))
    assert caught.value.code == "E554"
    assert "same command again" in caught.value.hint


def test_a_connection_that_closes_during_an_upload_is_no_answer(
    gguf: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "has_blob", lambda url, digest: False)
    choice = go_template.Choice("chatml", "{{ .Prompt }}", None, ())
    file = gguf.path("tiny-F32.gguf")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with pytest.raises(NoAnswer):
                stage.create(url, stage.create_request("m", file.name, "0", choice, {}), file)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_ollama_that_hides_its_prompts_is_refused(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(*arguments: Any, **options: Any) -> Any:
        answer = ask(*arguments, **options)
        answer.pop("_debug_info", None)
        return answer

    monkeypatch.setattr(parity, "ask", older)
    with pytest.raises(StageFailed) as caught:
        deploy(prompt_lines(cases()[:1], None))
    assert caught.value.code == "E555"
