"""What came out of a run, from its folder alone: as data and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from runner.plan.keys import PRIVATE
from runner.report.memory_text import summary_line
from runner.report.printable import escaped
from runner.report.progress import JUDGED_BY

ANSWERS_SHOWN = 6


def summary(folder: Path) -> dict[str, Any]:
    """Stages, measures, answers, artifacts and what to type next, of the run in `folder`."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {
        "schema": 1,
        "state": record["state"],
        "until": record.get("until"),
        "recipe": record["recipe"],
        "run": str(folder),
        "stages": [
            {name: stage[name] for name in ("name", "action", "seconds", "measures")}
            | {"private": PRIVATE in stage["material"]}
            for stage in record["stages"]
        ],
        "margin_unit": _margin_unit(record),
        "gguf_limits": _gguf_limits(record),
        "memory": summary_line(record),
        "gpu_health": health_line(record),
        "answers": _answers(folder),
        "artifacts": _artifacts(folder, manifest),
        "manifest_sha256": _manifest_sha256(folder),
        "talk": talk_command(folder),
    }


def health_line(record: Mapping[str, Any]) -> str | None:
    """Where the GPU was slower in the training than it could be; None elsewhere."""
    from runner.system.gpu_health import in_words

    train = next((stage for stage in record["stages"] if stage["name"] == "train"), None)
    return None if train is None else in_words(train["measures"].get("gpu_health"))


def talk_command(folder: Path) -> str | None:
    """The command that starts a conversation with this run's model, or None without one."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    section = record["resolved"].get("ollama")
    if not section or not any(stage["name"] == "ollama" for stage in record["stages"]):
        return None
    from runner.system.ollama import talk_command as command_for

    return command_for(section["name"])


def render_summary(result: dict[str, Any], stream: TextIO) -> None:
    """Print the summary for a person."""
    from rich.console import Console

    console = Console(
        file=stream, highlight=False, width=None if stream.isatty() else 120, soft_wrap=False
    )
    console.print(
        _title(result), markup=False, style="italic"
    )  # a table's title breaks at its width
    console.print(_stage_table(result))
    if lines := _quality_lines(result):
        console.print("\n".join(lines), markup=False)
    _print_quantisations(result, console)
    if result["answers"]:
        console.print(_answer_table(result["answers"]))
    print("Artifacts (sha256, bytes, path in the run folder)", file=stream)
    for line in _artifact_lines(result["artifacts"]):
        print(line, file=stream)
    print(f"manifest sha256  {result['manifest_sha256']}", file=stream)
    print(f"run folder       {result['run']}", file=stream)
    if result["talk"]:
        print(f"talk to it       {result['talk']}", file=stream)


def _print_quantisations(result: dict[str, Any], console: Any) -> None:
    from runner.report.gguf_table import quantisation_lines, quantisation_table

    measures = _measures(result, "gguf")
    if table := quantisation_table(measures):
        console.print(table)
        lines = quantisation_lines(measures, result["gguf_limits"])
        console.print("\n".join(lines), markup=False)


def _gguf_limits(record: dict[str, Any]) -> dict[str, Any]:
    """The limits by which one of the GGUF files is recommended; empty without such files."""
    section = record["resolved"].get("gguf") or {}
    names = ("max_kl_divergence", "max_perplexity_increase")
    return {name: section[name] for name in names if name in section}


def _margin_unit(record: dict[str, Any]) -> str:
    """Of the margin between two answers: of their sums, their means over tokens, or scores."""
    train = record["resolved"].get("train") or {}
    if train.get("method") == "reward":
        return "points"
    mean = train.get("method") in ("orpo", "simpo") or train.get("loss_type") == "ipo"
    return "nats a token" if mean else "nats"


def _answers(folder: Path) -> list[dict[str, Any]]:
    path = folder / "evaluation" / "answers.jsonl"
    if not path.is_file():
        return []
    # Not splitlines: answers may hold U+2028, which it takes for the end of a line.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def _artifacts(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The files a person takes away: everything of the manifest that the run folder shows."""
    from runner.execution.run_folder import SHOWN_AS
    from runner.stages import ORDER

    in_order = sorted(manifest["stages"].items(), key=lambda item: ORDER.index(item[0]))
    return [
        {
            "path": str((folder / SHOWN_AS[stage] / path).relative_to(folder)),
            "size": entry["size"],
            "sha256": entry["sha256"],
        }
        for stage, files in in_order
        if stage in SHOWN_AS
        for path, entry in files.items()
    ]


def _manifest_sha256(folder: Path) -> str:
    from runner.store.digest import file_sha256

    return file_sha256(folder / "manifest.json")


def _measures(result: dict[str, Any], stage: str) -> dict[str, Any]:
    found = [entry["measures"] for entry in result["stages"] if entry["name"] == stage]
    return found[0] if found else {}


def _title(result: dict[str, Any]) -> str:
    until = f" until {result['until']}" if result["until"] else ""
    return f"{result['recipe']}: {result['state']}{until}"


def _stage_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("stage", "", "seconds")
    table.columns[2].justify = "right"
    for stage in result["stages"]:
        seconds = "" if stage["action"] == "reuse" else f"{stage['seconds']:.1f}"
        own = ", kept for this run alone" if stage["private"] else ""
        table.add_row(stage["name"], stage["action"] + own, seconds)
    return table


def _quality_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    measured = _measures(result, "evaluate")
    if "loss_base" in measured and "loss_tuned" in measured:
        lines.append(
            f"held-out loss     {measured['loss_base']:.3f} before, "
            f"{measured['loss_tuned']:.3f} after  (perplexity of the answers "
            f"{measured['perplexity_base']:.2f} → {measured['perplexity_tuned']:.2f})"
        )
    lines += _preference_lines(measured, result["margin_unit"])
    lines += _reward_lines(measured, _measures(result, "train"))
    if measured.get("questions"):
        lines.append(
            f"questions         {measured['score_base']} of {measured['questions']} right before, "
            f"{measured['score_tuned']} of {measured['questions']} after"
        )
    lines += _example_lines(measured.get("examples") or {})
    lines += _task_lines(_measures(result, "harness").get("tasks") or {}, "task")
    lines += _task_lines(_measures(result, "harness").get("groups") or {}, "group")
    lines += _last_step_lines(_measures(result, "train"))
    lines += template_lines(_measures(result, "train").get("template"))
    lines += fidelity_lines(_measures(result, "fidelity"))
    if result.get("memory"):
        lines.append(result["memory"])
    if result.get("gpu_health"):
        lines.append(result["gpu_health"])
    speed = _measures(result, "benchmark")
    return lines + ([_speed_line(speed)] if "generation_tokens_per_second" in speed else [])


def _last_step_lines(measured: Mapping[str, Any]) -> list[str]:
    """What a method is judged by beside the loss, as the training's last step had it."""
    found = {
        words: measured[f"{name}_last_step"]
        for name, words in JUDGED_BY.items()
        if f"{name}_last_step" in measured
    }
    if not found.keys() - {"loss"}:
        return []
    return ["last step         " + ", ".join(f"{words} {at:.3f}" for words, at in found.items())]


def _speed_line(speed: Mapping[str, Any]) -> str:
    rate = _median(speed["generation_tokens_per_second"])
    if rate == "0":  # a twin of random weights, for one, often ends where an answer would begin
        return "in Ollama         speed not measured: the model gave no token"
    first = _median(speed["time_to_first_token"])
    median = f"(median of {speed['runs']})"
    return f"in Ollama         {rate} tokens/s, first token after {first} s {median}"


def fidelity_lines(found: Mapping[str, Any]) -> list[str]:
    """Which base a QLoRA was merged into, and how near the result is to the model before it."""
    if "kl_merged" not in found:
        line = f"merged into       the {found.get('base')} base; not measured: no row is held out"
        return [line] if found else []
    part = found["kl_merged"] / found["kl_training"] if found["kl_training"] > 0 else float("inf")
    interval = ""
    if found["kl_merged_low"] is not None:
        interval = f", 95%: {found['kl_merged_low']:.2g} to {found['kl_merged_high']:.2g}"
    lines = [
        f"merged into       the {found['base']} base: KL {found['kl_merged']:.2g} nats a token "
        f"from the trained model ({part:.0%} of what training moved{interval}); "
        f"loss {found['loss_unmerged']:.3f} → {found['loss_merged']:.3f}"
    ]
    if found.get("far"):
        other = "original" if found["base"] == "dequantized" else "dequantized"
        lines.append(
            "look at           the merged model is far from the trained one: try "
            f"--set merge.base={other}, which trains nothing again"
        )
    return lines


def _task_lines(tasks: dict[str, Any], head: str) -> list[str]:
    """Of every task or group and metric: before, after, and the difference with its interval."""
    lines = []
    for name, found in tasks.items():
        base, tuned, change = (found.get(side) for side in ("base", "tuned", "change"))
        if base is None or tuned is None or change is None:
            continue
        words = f"{name}: {base['value']:.3f} before, {tuned['value']:.3f} after"
        if found["few"] or change["low"] is None:
            words += f"  ({found['count']} rows: too few to say more)"
        else:
            words += f"  (95% of the difference: {change['low']:+.3f} to {change['high']:+.3f})"
        lines.append(f"{head:<18}{words}")
    return lines


def _preference_lines(measured: dict[str, Any], unit: str) -> list[str]:
    """How often the better held-out answer wins, and how far the answers have moved apart."""
    lines = []
    if "preference_accuracy_tuned" in measured:
        tuned = f"{measured['preference_accuracy_tuned']:.0%} of {measured['pairs']} pairs"
        if "preference_accuracy_base" in measured:
            before = f"{measured['preference_accuracy_base']:.0%} before, {tuned} after"
        else:
            before = tuned
        lines.append(
            f"preferred         {before}  {_interval(measured, 'preference_accuracy_tuned')}"
        )
    if "preference_margin_change" in measured:
        lines.append(
            f"margin            {measured['preference_margin_change']:+.3f} "
            f"{unit} since the base  "
            f"{_interval(measured, 'preference_margin_change')}"
        )
    if lines and measured.get("few_pairs"):
        lines.append("                  too few held-out rows to say more: hold out 30 or more")
    return lines


def _reward_lines(measured: dict[str, Any], trained: dict[str, Any]) -> list[str]:
    """What held-out answers earn, how long they are, and signs of rewards earned otherwise."""
    lines = []
    if "reward_change" in measured:
        lines = [
            f"reward            {measured['reward_base']:.3f} before, "
            f"{measured['reward_tuned']:.3f} after, {measured['reward_change']:+.3f}  "
            f"{_interval(measured, 'reward_change')}",
            f"answers           {measured['answer_tokens_base']:.0f} tokens before, "
            f"{measured['answer_tokens_tuned']:.0f} after",
        ]
        if measured.get("few_prompts"):
            lines.append(
                "                  too few held-out prompts to say more: hold out 30 or more"
            )
    for sign in trained.get("reward_hacking_signs") or ():
        lines.append(f"reward hacking?   {sign}")
    signs = trained.get("signs") or {}
    lines += [f"look at           {escaped(sentence)}" for sentence in signs.values()]
    return lines


_SHOWN = {  # of what is measured of single examples; `recipe compare` shows all
    "samples_rouge_l": "ROUGE-L",
    "sound": "sound form",
    "general_hit": "general prompts",
    "neutral_kl": "KL, neutral text",
}


def _example_lines(examples: Mapping[str, Any]) -> list[str]:
    """Before and after, with the change and its interval."""
    lines = []
    for name, title in _SHOWN.items():
        found = examples.get(name, {})
        if not {"base", "tuned", "change"} <= found.keys():
            continue
        change = found["change"]
        ends = "" if change["low"] is None else f"{change['low']:.3g} to {change['high']:.3g}"
        few = f"  too few: {found['count']}" if found["few"] else ""
        lines.append(
            f"{title:<17} {found['base']['value']:.3g} before, {found['tuned']['value']:.3g} after"
            + (f"  (95% of the change: {ends})" if ends else "")
            + few
        )
    return lines


def _interval(measured: dict[str, Any], name: str) -> str:
    """Of one example there is none. Runs of older versions have one without a width."""
    low, high = measured[f"{name}_low"], measured[f"{name}_high"]
    counts = [measured.get(each) for each in ("pairs", "prompts", "reward_prompts")]
    if low is None or high is None or 1 in counts:
        return "(one example: there is no interval)"
    return f"(95%: {low:.4g} to {high:.4g})"


def template_lines(found: Mapping[str, Any] | None) -> list[str]:
    """How the tokens of a backend's own template differ from the shared ones; the first row."""
    if found is None:
        return []
    lines = [
        f"own template      {found['name']}: {found['different']} of {found['rows']} rows have "
        "other tokens, or train on others of them, than the shared template gives"
    ]
    if first := found.get("first"):
        lines.append(f"  first in {escaped(first['row'])}, at token {first['token'] + 1}:")
        for name in ("shared", "own"):
            part = first[name]
            lines.append(f"  {name:<7} {_one_line(repr(part['text']))}")
            lines.append(f"          {' '.join(map(str, part['ids']))}")
            lines.append(f"          trained on: {''.join(map(str, part['trained']))}")
        lines.append("  evaluation and deployment use the shared template")
    return lines


def _median(spread: Any) -> str:
    value = spread["median"] if isinstance(spread, dict) else spread
    return f"{value:.3g}"


def _answer_table(answers: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "question", "base", "tuned", title="Answers, greedy", title_justify="left", show_lines=True
    )
    for answer in answers[:ANSWERS_SHOWN]:
        said = [_marked(answer, name) for name in ("base", "tuned")]
        table.add_row(*(Text(_one_line(text)) for text in (answer["question"], *said)))
    return table


def _marked(answer: dict[str, Any], name: str) -> str:
    """An answer, with a mark that says whether everything expected is in it."""
    from runner.scripts.data.questions import Question

    expected = tuple(answer.get("expect", ()))
    if not expected:
        return str(answer[name])
    hit = Question("", [], expected).is_hit(answer[name])
    return f"{'✓' if hit else '✗'} {answer[name]}"


def _artifact_lines(artifacts: list[dict[str, Any]]) -> list[str]:
    """As sha256sum writes them, with the size between: whole digests, whatever the width."""
    return [
        f"{artifact['sha256']}  {artifact['size']:>13,}  {artifact['path']}"
        for artifact in artifacts
    ]


def _one_line(text: str, limit: int = 160) -> str:
    flat = escaped(" ".join(text.split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
