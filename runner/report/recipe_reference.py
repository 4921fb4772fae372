"""The reference of every field of a recipe, written from the schema alone (docs/recipe.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.recipe.finding import null_last
from runner.recipe.flow import flow
from runner.recipe.schema import Schema, file_schema

_INTRODUCTION = """# Recipe reference

Names are those of Transformers, TRL and PEFT wherever these have one.
`recipe show --resolved x.yaml` prints a recipe with every default and the place that each given
value comes from. Recipes that share values can [extend a base](#bases); `--set` gives
[another value for one time](#another-value-for-one-time).

## How a recipe is read

- YAML 1.2, one document, UTF-8. `true` and `false` are the only booleans; `on` and `yes` are text.
- Unknown and duplicate keys are errors. Refused are tags, anchors, aliases, merge keys (`<<`), tabs
  outside of quotes, infinite numbers, and files of more than 256 KiB.
- A path is relative to the folder of the file that names it. Links resolved, it stays under the
  project root: the nearest folder above the recipe with a `.git`, else the recipe's folder. Only
  `model.path` may be absolute.
- A missing section (`evaluate`, `merge`, `gguf`, `ollama`, `benchmark`) is a stage that is not part
  of the recipe. `merge: {}` is the section with all its defaults.
- The shapes of data rows are in [data.md](data.md), the errors in [errors.md](errors.md).
- In a folder, `recipe validate` takes a `.yaml` or `.yml` file for a recipe when it has a top-level
  `schema:`, two of `model:`, `data:` and `train:`, an `extends:` of a YAML file, or
  `abstract: true`. A [synthesis](synthesis.md) (`synthesis: 1`) and a [judge](evaluation.md)
  (`judge: 1`) are checked by their own rules. Locks (`*.lock.yaml`) and hidden files are left out.
  A file that is named is always checked.

## How to begin

`recipe new` asks for a goal, a model, data and a machine, and writes a recipe with a comment at
every key: its meaning, as below, and why the value is what it is. Every question has a flag:

```sh
recipe new --stdout --model Qwen/Qwen3-8B --data recipes/data/spark-faq.jsonl --machine spark
```

It recommends full fine-tuning, LoRA or QLoRA by the memory of the machine and the amount of data,
with the arithmetic at the top of the file ([which method](course/10.1-methods.md)). `--machine`
takes `spark`, `gpu` and `cpu`, and the names and files of `recipe plan --hardware`. It looks at the
disk only: a folder's `config.json`, one that was fetched before, the published sizes of well-known
models, or the number in a model's name; `--parameters` tells what these do not.

The goal (`--goal`) is guessed from the rows where it is not given: pairs are for `dpo` (or `orpo`,
`simpo`, `reward`), labelled answers for `kto`, questions with an answer for `grpo`, plain texts for
`pretrain`, conversations for `chat` (or `gguf`, `sft`). `ppo` needs a reward model, which is
another recipe: copy `recipes/course/10.5-ppo.yaml`.

```sh
recipe new --stdout --model smollm2 --data recipes/data/committed-answers.jsonl --machine h200
```

## Versions

`schema:` is the version of this shape. `recipe migrate x.yaml` rewrites a recipe of an older one,
and touches nothing but what changed; `--check` only asks, for a pull request:

```sh
recipe migrate --check recipes/
```

An older recipe still runs, with a warning. For a newer one, Spark Recipes says which version of
itself is needed, as far as the comment behind `schema:` tells.

## Fields

The least that a recipe must say:
"""

_BASES = """## Bases

What several recipes share stands in a base; each of them says only what is its own:

```yaml
# bases/team.yaml
schema: 1
abstract: true
model: {path: ../models/tiny, dtype: float32}
data:
  train: [{path: ../data/questions.jsonl, format: alpaca}]
  system: You answer questions.
train:
  adapter: {type: lora, r: 8, target_modules: [q_proj, v_proj]}
  max_steps: 40
merge: {}
gguf: {quantize: [Q8_0]}
```

```yaml
# wide.yaml
extends: bases/team.yaml
name: wide
train:
  adapter: {r: 32, target_modules: [q_proj, k_proj, v_proj, o_proj]}
  num_train_epochs: 2
gguf: null
```

- Mappings are merged, at any depth; lists and everything else are replaced. Here `type: lora`
  stays, `r` and the list are the new ones.
- `null` takes away what the base says: a section, or a value, which then has its default. Where
  `null` is a value of the key (`data.system`), it is that value.
- Of alternatives, the one that is named takes the other's place: `num_train_epochs` that of
  `max_steps`, `adapter: {type: none}` that of `lora` with all its settings. Another `wheel`,
  `path`, `hub` or `recipe` of the model takes away `sha256`, `revision`, `file` and
  `trust_remote_code`, which went with the old one; `dtype`, `attn_implementation` and
  `quantization` stay. The same holds for the same key with another value: another `hub` has its
  own `revision`.
- A path is relative to the folder of the file that names it, and so is `extends`. No file may lie
  outside of the project root.
- A base can be a recipe of its own, or have a base itself (at most eight, one upon the other). One
  that lacks what a recipe needs says `abstract: true`: it is checked as far as it goes, by
  `recipe validate` and in an editor, and cannot be run. `abstract` is not handed on.
- Everything but `extends` and `abstract` is handed on, `name` too; give each recipe its own, since
  it names the folder of its runs.
- A problem is reported in the file, line and column where the value stands, once, however many
  recipes extend that file. A key that nobody gives is missing in the recipe, not in its base. A
  value that is replaced is not looked at.
- What came out is what counts: stages do not ask which file said a value, and a lock or bundle of
  such a recipe holds the whole. An edited base makes the lock stale where it changes a value, and
  the value is named.

## Another value for one time

`--set NAME=VALUE` lies over the recipe as if a file that extends it said so. It may be repeated,
and the last one counts:

```sh
recipe show recipes/quickstart.yaml --set train.learning_rate=1e-3 --set 'gguf.quantize=[Q8_0]'
recipe plan recipes/quickstart.yaml --set train.max_steps=8 --set benchmark=null
recipe diff recipes/quickstart.yaml recipes/quickstart.yaml --set train.adapter.r=32
```

The name is written as in messages: items of a list by number from 0 (`data.train[0].path`), a key
with dots in quotes (`'train.adapter.rank_pattern."layers.0.q_proj"=4'`). The value is YAML by the
rules above, checked as in a file; messages name the option. A relative path in it starts at the
recipe's folder.

`run`, `plan`, `show` and `validate` take it; so does `diff`, for its second recipe. A run records
it in `run.json` (`set`), and its `recipe.lock.yaml` holds the values. A lock beside a recipe is of
the file as it is written: a run with `--set` does not go by it, and `recipe lock` has no `--set`.
What is to stay becomes a small recipe that extends the other.
"""

_TYPE_WORDS = {
    "object": "mapping",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}


def render(schema: Schema | None = None) -> str:
    """docs/recipe.md as Markdown."""
    schema = schema or file_schema()
    example = "\n".join(f"{key}: {flow(v)}" for key, v in schema["examples"][0].items())
    head = f"{_INTRODUCTION}\n```yaml\n{example}\n```\n"
    parts = [head, _BASES, *_object("", "The recipe", schema)]
    return "\n".join(parts)


def _object(name: str, title: str, schema: Schema) -> Iterator[str]:
    """A heading with the fields of one mapping, then the mappings inside of it."""
    yield f"## {title}\n\n{schema['description']}\n"
    if name and "examples" in schema:
        yield "\n".join(f"```yaml\n{line}\n```\n" for line in _examples(name, schema))
    for number, branch in enumerate(schema.get("oneOf", ())):
        if "properties" in branch:
            word = "Or" if number else "Either"
            yield f"**{word} {branch['title']}.** {branch.get('description', '')}\n"
            yield _table(branch)
    if "properties" in schema:
        yield _table(schema)
    for inner, inner_schema in _inner_objects(name, schema):
        yield from _object(inner, f"`{inner}`", inner_schema)


def _examples(name: str, schema: Schema) -> Iterator[str]:
    key = name.rpartition(".")[2]
    head = "- " if key.endswith("[]") else f"{key}: "
    for example in schema["examples"]:
        yield head + flow(example)


def _inner_objects(name: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    shown = set()  # what several branches share
    for part in (schema, *schema.get("oneOf", ())):
        for key, value in part.get("properties", {}).items():
            path = f"{name}.{key}" if name else key
            if path in shown:
                continue
            shown.add(path)
            if value.get("type") == "object":
                yield path, value
            elif value.get("items", {}).get("type") == "object":
                yield f"{path}[]", value["items"]


def _table(schema: Schema) -> str:
    rows = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for key, value in schema["properties"].items():
        meaning = value.get("description", "")
        cells = (f"`{key}`", _value(value), _default(value, key in required), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "**required**"
    return f"`{_shown(schema['default'])}`" if "default" in schema else "none"


def _value(schema: Schema) -> str:
    """Type, range and an example of one field."""
    if "const" in schema:
        return f"`{_shown(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{_shown(value)}`" for value in schema["enum"])
    if "oneOf" in schema and schema.get("type") != "object":
        return ", or ".join(_value(branch) for branch in schema["oneOf"])
    types = null_last(schema["type"]) if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join(_TYPE_WORDS[name] for name in types)
    if schema.get("items"):
        items = schema["items"]
        words += " of " + ("mappings" if items.get("type") == "object" else _value(items))
    limits = list(_limits(schema))
    if limits:
        words += f", {' and '.join(limits)}"
    if schema["type"] in ("object", "boolean") or "examples" not in schema or "items" in schema:
        return words
    return f"{words}; such as `{_shown(schema['examples'][0])}`"


def _limits(schema: Schema) -> Iterator[str]:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
        "maxLength": "at most {} characters",
    }
    for keyword, text in words.items():
        if keyword in schema:
            yield text.format(_shown(schema[keyword]))


def _shown(value: Any) -> str:
    return flow(value)


if __name__ == "__main__":
    print(render(), end="")
