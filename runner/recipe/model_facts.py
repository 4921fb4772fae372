"""What is known of the base model without the network: its config, from where it lies at hand.

In this order: the model's own folder or GGUF file, the recipe's lock, the store. A repository that
is in none of them is not known, and nobody is asked: `recipe lock` brings its facts. A recipe that
starts from another one has that one's facts, whether it was trained yet or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.gguf_header import Header, NotGgufError, read_header
from runner.recipe.model import is_commit
from runner.recipe.paths import is_readable_file
from runner.system.regular import NotReadable, read_regular

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

MAX_CONFIG_BYTES = 4 * 1024 * 1024
# GGUF's name behind the architecture's -> the config's.
_GGUF_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
_GGUF_TYPES = {"gemma3": "gemma3_text"}


@dataclass(frozen=True, slots=True)
class Facts:
    """`config` as in config.json, perhaps in part; `where` it was read, for messages.

    `chat_template`: the model's own, where that is at hand too.
    """

    config: Mapping[str, Any]
    where: str
    chat_template: str | None = None

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for; None when the config does not say."""
        value = self.config.get("max_position_embeddings")
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return value if good else None


def known_facts(recipe: Recipe) -> Facts | None:
    """The facts of `recipe.model`; None when they are not at hand. Reads only."""
    model = recipe.model
    if recipe.base is not None:
        return facts_of_result(recipe.base) or _of_lock(recipe)
    if model.path is None:
        return _of_lock(recipe) or _of_store(recipe)
    folder = recipe.resolve(model.path)
    if model.file is None:
        return facts_of_folder(folder, "its config.json")
    return _of_gguf(folder / model.file)


def facts_of_result(base: Recipe) -> Facts | None:
    """The facts of what `base` gives: its model's own shapes, and the template it trained with."""
    from runner.stages.prepare import template_file

    facts = known_facts(base)
    if facts is None or base.data.chat_template == "model":
        return facts
    try:
        template = read_regular(template_file(base), MAX_CONFIG_BYTES).decode(errors="replace")
    except NotReadable:
        return replace(facts, chat_template=None)
    return replace(facts, chat_template=template)


def facts_of_folder(folder: Path, where: str) -> Facts | None:
    """The facts of a model folder."""
    config = read_object(folder / "config.json")
    if config is None:
        return None
    inner = config.get("text_config")
    return Facts(inner if isinstance(inner, dict) else config, where, _own_template(folder))


def _own_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if is_readable_file(file):
        try:
            return read_regular(file, MAX_CONFIG_BYTES).decode(errors="replace")
        except NotReadable:
            return None
    given = (read_object(folder / "tokenizer_config.json") or {}).get("chat_template")
    return given if isinstance(given, str) else None


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is none, or more than a config is."""
    try:
        data = json.loads(read_regular(path, MAX_CONFIG_BYTES))
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _of_gguf(path: Path) -> Facts | None:
    if not is_readable_file(path):
        return None
    try:
        header = read_header(path)
    except NotGgufError:
        return None  # the stage that reads it says what is wrong
    template = header.values.get("tokenizer.chat_template")
    own = template if isinstance(template, str) and template else None
    return Facts(config_of_gguf(header), "the GGUF file's header", own)


def config_of_gguf(header: Header) -> dict[str, Any]:
    """A GGUF file's sizes under the names of a config.json."""
    kind = header.values.get("general.architecture")
    found: dict[str, Any] = {"model_type": _GGUF_TYPES.get(str(kind), kind)}
    for name, meant in _GGUF_SIZES.items():
        if (value := header.values.get(f"{kind}.{name}")) is not None:
            found[meant] = value
    found["vocab_size"] = header.values.get("tokenizer.ggml.tokens")
    found["tie_word_embeddings"] = "output.weight" not in header.matrices
    return found


def _of_lock(recipe: Recipe) -> Facts | None:
    """Of the lock beside the recipe, or of the lock that the recipe is; not of another model."""
    from runner.errors import RecipeToolError
    from runner.lock.file import is_lock, lock_path, read_lock

    path = recipe.source.path
    lock_file = path if is_lock(path) else lock_path(path)
    if not is_readable_file(lock_file):
        return None
    try:
        lock = read_lock(lock_file)
    except (RecipeToolError, OSError):
        return None
    if not _same_model(lock["recipe"]["model"], recipe):
        return None
    return Facts(lock["facts"], lock_file.name)


def _same_model(locked: dict[str, Any], recipe: Recipe) -> bool:
    """A lock names the commit that a branch was at."""
    given = recipe.resolved()["model"]
    if recipe.model.hub is not None and not is_commit(recipe.model.revision):
        given |= {"revision": locked.get("revision")}
    return bool(locked == given)


def _of_store(recipe: Recipe) -> Facts | None:
    """Of the model that `fetch` stored under the key of this very recipe."""
    from runner.errors import RecipeToolError
    from runner.plan.keys import Surroundings, key_material, key_of
    from runner.stages import fetch, load_stage
    from runner.store.store import Store
    from runner.system import environments
    from runner.system.folders import store_folder

    if fetch.unresolved(recipe) or recipe.given is not None:
        return None
    try:
        store = Store(store_folder())
        if not (store.root / fetch.NAME).is_dir():
            return None
        surroundings = Surroundings({"data": environments.identity("data")}, {}, {}, {})
        key = key_of(key_material(load_stage("fetch"), recipe, {}, surroundings))
    except (RecipeToolError, OSError):
        return None
    return facts_of_folder(store.folder(fetch.NAME, key) / "model", "the store")
