"""The resolved recipe: what every later part reads. Frozen, complete, no default left to guess.

Attribute names are the YAML's names. What a recipe does not ask for is None: an absent section, the
one of two alternatives that was not chosen. Values come from `schema.fill_defaults`; this module
has no defaults of its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.methods import METHODS

if TYPE_CHECKING:
    from runner.bundle.given import Given
    from runner.recipe.source import Source, Span


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the base is held in memory while an adapter is trained on it (BitsAndBytesConfig)."""

    load_in_4bit: bool  # always true: a base that is not quantised has no such section
    bnb_4bit_quant_type: str
    bnb_4bit_use_double_quant: bool
    bnb_4bit_compute_dtype: str


@dataclass(frozen=True, slots=True)
class Model:
    """The base model: of a `wheel`, a folder `path`, the repository `hub` at `revision`, or what
    another `recipe` gives, which is here as resolved data, its paths as in this recipe.

    `file` is a GGUF file in it; without one a folder or repository is a safetensors model.
    """

    wheel: str | None
    path: str | None
    hub: str | None
    recipe: Mapping[str, Any] | None
    revision: str | None  # a commit, a branch or a tag; None: the hub's main branch
    sha256: str | None  # of the wheel file
    file: str | None
    dtype: str
    attn_implementation: str
    trust_remote_code: bool  # only a repository of the hub may bring code
    quantization: Quantization | None


@dataclass(frozen=True, slots=True)
class RewardModel:
    """The model that scores answers: what another `recipe` trained, which is here as resolved data,
    its paths as in this recipe, a folder `path`, or the repository `hub` at `revision`.
    """

    recipe: Mapping[str, Any] | None
    path: str | None
    hub: str | None
    revision: str | None  # a commit, a branch or a tag; None: the hub's main branch


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of rows: `path`, or `file` in the data set repository `hub` at `revision`.

    `path` is relative to the recipe's folder; `Recipe.resolve` finds it. `columns`: key that the
    format reads -> what the file calls it. `weight`, `repeat` and `limit`: how much of it is taken.
    """

    path: str | None
    hub: str | None
    revision: str | None
    file: str | None
    format: str
    columns: Mapping[str, str] | None
    weight: float | None
    repeat: float
    limit: int | None  # rows

    @property
    def mix(self) -> dict[str, Any]:
        """How much of it is taken; {} where every row is taken once."""
        repeat = None if self.repeat == 1 else self.repeat
        given = {"weight": self.weight, "repeat": repeat, "limit": self.limit}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.path is not None else f"{self.hub}/{self.file}"


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out rows: `files` when there are any, else `fraction` of the training rows (0: none)."""

    fraction: float
    files: tuple[DataFile, ...]
    stable: bool
    group_by: str | None
    stratify: str | None
    on_leak: str

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from a plain split whose leaks are counted; {} where nothing does."""
        on_leak = None if self.on_leak == "allow" else self.on_leak
        given = {
            "stable": self.stable or None,
            "group_by": self.group_by,
            "stratify": self.stratify,
            "on_leak": on_leak,
        }
        return {key: value for key, value in given.items() if value is not None}

    @property
    def holds_out(self) -> bool:
        """Is anything held out?"""
        return bool(self.files) or self.fraction > 0


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Rows of which one is enough. `threshold`: what part of two rows must be shared."""

    threshold: float


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """A file that the model is measured by: `path`, relative to the recipe, or `file` in the data
    set repository `hub` at `revision`."""

    path: str | None
    hub: str | None
    revision: str | None
    file: str | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.path is not None else f"{self.hub}/{self.file}"


@dataclass(frozen=True, slots=True)
class Decontaminate:
    """What rows to train on must not hold: runs of `ngram` words of these texts."""

    ngram: int
    validation: bool
    questions: bool
    files: tuple[MeasuredFile, ...]


@dataclass(frozen=True, slots=True)
class Clean:
    """The steps of cleaning, in their order; each has a value that leaves it out."""

    alternation: str  # keep | drop | merge
    web_text: bool
    unicode: bool
    whitespace: bool
    secrets: str  # keep | mask | drop
    personal_data: str
    min_answer_chars: int
    max_answer_chars: int | None
    refusals: bool
    language: tuple[str, ...]
    exact_duplicates: bool
    near_duplicates: NearDuplicates | None
    decontaminate: Decontaminate | None

    def steps(self) -> dict[str, Any]:
        """Step -> its setting, of those that do something."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value not in ("keep", False, 0, None, ())
        }


@dataclass(frozen=True, slots=True)
class Data:
    """What the model learns from. `system` None adds no system turn; "" adds an empty one."""

    train: tuple[DataFile, ...]
    validation: Validation
    system: str | None
    system_variants: tuple[str, ...]  # beside it, for rows to train on
    system_for: str  # missing | all: whose system turn it is
    chat_template: str  # "model", a shipped one's name, or the path of a .jinja file
    max_length: int  # tokens
    too_long: str
    packing: bool
    clean: Clean | None

    @property
    def systems(self) -> dict[str, Any]:
        """What is said of system turns beside `system`; nothing for what changes nothing."""
        variants = {"system_variants": list(self.system_variants)} if self.system_variants else {}
        return {**variants, **({"system_for": "all"} if self.system_for == "all" else {})}

    @property
    def measured_files(self) -> tuple[MeasuredFile, ...]:
        """Files whose texts must not be in the rows to train on."""
        measured = self.clean.decontaminate if self.clean else None
        return measured.files if measured else ()

    def with_files(self, change: Callable[[Any], Any]) -> Data:
        """The same with another one in the place of each file."""
        validation = replace(self.validation, files=tuple(map(change, self.validation.files)))
        clean = self.clean
        if clean is not None and clean.decontaminate is not None:
            measured = tuple(map(change, clean.decontaminate.files))
            clean = replace(clean, decontaminate=replace(clean.decontaminate, files=measured))
        train = tuple(map(change, self.train))
        return replace(self, train=train, validation=validation, clean=clean)

    @property
    def cleaning(self) -> dict[str, Any]:
        """The steps of cleaning that do something, in their order, with their settings."""
        return self.clean.steps() if self.clean else {}


@dataclass(frozen=True, slots=True)
class Adapter:
    """What learns. For type `none` (the weights themselves) the numbers of an adapter are 0 and
    there are no targets; `trainable_layers` then are the last layers, or with a minus the first
    ones, and None is every weight.
    """

    type: str
    r: int
    lora_alpha: int
    lora_dropout: float
    use_dora: bool
    use_rslora: bool
    target_modules: str | tuple[str, ...]  # a word, a regular expression, or module names
    exclude_modules: str | tuple[str, ...]
    modules_to_save: tuple[str, ...]
    rank_pattern: Mapping[str, int]  # regular expression of a name's end -> r
    alpha_pattern: Mapping[str, int]  # the same -> lora_alpha
    lora_bias: bool
    trainable_layers: int | None
    trainable_modules: tuple[str, ...]  # directly in these layers; all of them when empty


@dataclass(frozen=True, slots=True)
class Reward:
    """What an answer earns (scripts/rewards/functions.py). What is not given is None or empty."""

    name: str
    weight: float
    pattern: str | None
    tolerance: float | None
    words: tuple[str, ...]
    fields: Mapping[str, str]
    min_words: int | None
    max_words: int | None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those that are given, as plain data."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, (), {})}
        del given["name"], given["weight"]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}

    @property
    def spec(self) -> dict[str, Any]:
        """For a script: name, weight, parameters."""
        return {"name": self.name, "weight": self.weight, **self.parameters}


@dataclass(frozen=True, slots=True)
class Train:
    """How the model learns. One of `max_steps` and `num_train_epochs` is None."""

    backend: str
    method: str
    # Of some methods (recipe/methods.py); None where the method has no such setting.
    beta: float | None
    loss_type: str | None
    label_smoothing: float | None
    simpo_gamma: float | None
    desirable_weight: float | None
    undesirable_weight: float | None
    center_rewards_coefficient: float | None
    kl_coef: float | None
    num_ppo_epochs: int | None
    cliprange: float | None
    vf_coef: float | None
    response_length: int | None  # tokens
    missing_eos_penalty: float | None
    num_generations: int | None
    max_completion_length: int | None
    temperature: float | None
    rewards: tuple[Reward, ...] | None
    template: str  # "shared", or the name of one of LLaMA Factory's own
    adapter: Adapter
    max_steps: int | None
    num_train_epochs: float | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    optim: str
    bf16: bool
    gradient_checkpointing: bool
    save_steps: int  # operational: decides no byte of the result
    save_total_limit: int  # operational, too
    canary: bool  # operational, too
    processes: int  # on a machine
    nodes: int  # machines

    @property
    def all_processes(self) -> int:
        """Processes that train together."""
        return self.processes * self.nodes

    @property
    def rows_per_step(self) -> int:
        """Rows of the data that one step takes: where answers are drawn, they are the batch."""
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return max(1, batch // (self.num_generations or 1)) * self.all_processes


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of the data set repository `hub` at `revision`."""

    hub: str
    revision: str | None  # a commit, a branch or a tag; None: the hub's main branch
    file: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.hub}/{self.file}"


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task of lm-evaluation-harness: a file and its rows, or a `name` of the harness's own
    (recipe/named_tasks.py). Paths are relative to the recipe; those of the rows, with `hub`, to
    that data set repository at `revision`."""

    path: str | None
    data: str | None
    fewshot: str | None
    hub: str | None
    revision: str | None
    name: str | None

    @property
    def hub_files(self) -> dict[str, HubFile]:
        """`data` and `fewshot`, those that are on the hub."""
        if self.hub is None:
            return {}
        given = {"data": self.data, "fewshot": self.fewshot}
        return {
            key: HubFile(self.hub, self.revision, file)
            for key, file in given.items()
            if file is not None
        }


@dataclass(frozen=True, slots=True)
class Harness:
    """Tasks of lm-evaluation-harness. `limit`: rows of each; `num_fewshot`: None: by the task."""

    tasks: tuple[HarnessTask, ...]
    limit: int | None
    num_fewshot: int | None
    apply_chat_template: bool


@dataclass(frozen=True, slots=True)
class Evaluate:
    """What base and tuned model are compared by. `questions` is a path, relative to the recipe."""

    loss: bool
    samples: int
    max_new_tokens: int
    questions: str | None
    metrics: bool
    forgetting: bool
    harness: Harness | None


@dataclass(frozen=True, slots=True)
class Compare:
    """Recipes whose quality is set beside this one's: as resolved data, paths as in this recipe."""

    recipes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """How the adapter is added to the base."""

    base: str  # original | dequantized
    dtype: str
    fidelity: bool  # of a base in 4 bits: is the merged model held against the unmerged one?


@dataclass(frozen=True, slots=True)
class Imatrix:
    """The importance matrix: by which prepared rows, and at most how many chunks of them."""

    data: str  # train | validation
    chunks: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """Which GGUF files to write, and how much worse than the merged model one may be."""

    quantize: tuple[str, ...]
    max_perplexity_increase: float  # as a part of the merged model's perplexity
    max_kl_divergence: float  # nats; of what is recommended to ship
    imatrix: Imatrix | None


@dataclass(frozen=True, slots=True)
class Ollama:
    """What is deployed. `quantize` is one of `gguf.quantize`; not given, it is the first."""

    name: str
    quantize: str
    parameters: Mapping[str, int | float]  # only those that the recipe gives
    smoke: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How the deployed model is measured."""

    runs: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result. Equal recipes have equal values, wherever they stand."""

    schema: int
    name: str
    description: str
    seed: int
    model: Model
    reward: RewardModel | None
    data: Data
    train: Train
    evaluate: Evaluate | None
    merge: Merge | None
    gguf: Gguf | None
    ollama: Ollama | None
    benchmark: Benchmark | None
    compare: Compare | None
    source: Source = field(compare=False, repr=False)
    _resolved: dict[str, Any] = field(compare=False, repr=False)
    # What `model.recipe` is, as read: from a file of its own, where its paths start.
    base: Recipe | None = field(default=None, compare=False, repr=False)
    # The same of `reward.recipe`.
    scorer: Recipe | None = field(default=None, compare=False, repr=False)
    # The same of `compare.recipes`.
    compared: tuple[Recipe, ...] = field(default=(), compare=False, repr=False)
    # Not in a recipe: what `--shrink` changed, by JSON pointer. None: the recipe as it is written.
    shrink: Mapping[str, Any] | None = None
    # Not in a recipe: the bundle that it came in, which holds what would else be fetched.
    given: Given | None = None

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain JSON data with every default written out; itself a valid recipe."""
        return copy.deepcopy(self._resolved)

    def origin(self, pointer: str) -> Span | None:
        """Where the value at `pointer` (`/train/learning_rate`) is given; None: it is a default."""
        return self.source.values.get(pointer)

    @property
    def folder(self) -> Path:
        """Where relative paths start: the folder of the recipe file, links resolved."""
        return self.source.folder

    @property
    def project_root(self) -> Path:
        """What relative paths must not leave."""
        from runner.recipe.paths import project_root

        return project_root(self.source.path)

    def data_files(self) -> Iterator[tuple[str, DataFile]]:
        """Every file of rows with its JSON pointer, in the recipe's order."""
        for number, file in enumerate(self.data.train):
            yield f"/data/train/{number}", file
        for number, file in enumerate(self.data.validation.files):
            yield f"/data/validation/files/{number}", file

    def task_files(self) -> Iterator[tuple[str, int, str, HubFile]]:
        """Every file of the hub that a task's rows lie in: the task's JSON pointer and number, and
        `data` or `fewshot`."""
        harness = self.evaluate.harness if self.evaluate else None
        for number, task in enumerate(harness.tasks if harness else ()):
            for key, file in task.hub_files.items():
                yield f"/evaluate/harness/tasks/{number}", number, key, file

    def hub_files(self) -> Iterator[tuple[str, DataFile | MeasuredFile]]:
        """Every file of a data set on the hub with its JSON pointer, in the recipe's order."""
        for pointer, file in self.data_files():
            if file.hub is not None:
                yield pointer, file
        for number, measured in enumerate(self.data.measured_files):
            if measured.hub is not None:
                yield f"/data/clean/decontaminate/files/{number}", measured

    def resolve(self, path: str) -> Path:
        """`path` of the recipe as an absolute path, links left as they are."""
        return self.folder / path


def is_commit(revision: str | None) -> bool:
    """Does `revision` name one state of a repository for ever?"""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def quantization_spec(model: Model) -> dict[str, Any]:
    """The part of a script's spec that says how the base is held; nothing for one as it is."""
    return {} if model.quantization is None else {"quantization": asdict(model.quantization)}


def build(filled: dict[str, Any], source: Source) -> Recipe:
    """The recipe of `filled` (the output of `fill_defaults`).

    A section that was left out because it is invalid becomes None, whatever its type says: the
    checks of sound sections still run, and the result is never handed on.
    """
    filled = copy.deepcopy(filled)
    _choose_deployed_file(filled)
    _choose_method_settings(filled)
    return Recipe(
        schema=filled.get("schema", 0),
        name=filled.get("name", ""),
        description=filled.get("description", ""),
        seed=filled.get("seed", 0),
        model=_model(filled.get("model")),
        reward=_plain(RewardModel, filled.get("reward")),
        data=_data(filled.get("data")),
        train=_train(filled.get("train")),
        evaluate=_evaluate(filled.get("evaluate")),
        merge=_plain(Merge, filled.get("merge")),
        gguf=_gguf(filled.get("gguf")),
        ollama=_plain(Ollama, filled.get("ollama")),
        benchmark=_plain(Benchmark, filled.get("benchmark")),
        compare=_compare(filled.get("compare")),
        source=source,
        _resolved=filled,
        base=_inner(filled.get("model"), source),
        scorer=_inner(filled.get("reward"), source),
        compared=tuple(
            build_resolved(each, source.path)
            for each in (filled.get("compare") or {}).get("recipes", ())
            if isinstance(each, dict)
        ),
    )


def _inner(section: dict[str, Any] | None, source: Source) -> Recipe | None:
    """The recipe that stands in the place of a base model, or of a reward model."""
    if section is None or not isinstance(section.get("recipe"), dict):
        return None
    return build_resolved(section["recipe"], source.path)


def build_resolved(data: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe that a run, a lock or another recipe carries, resolved and valid, as if it stood
    at `path`. Fields that came into the schema since then have their defaults."""
    from runner.recipe.schema import fill_defaults, load_schema
    from runner.recipe.source import Source as SourceOfBase

    return build(fill_defaults(dict(data), load_schema()), SourceOfBase(path=path, data=data))


def _choose_deployed_file(filled: dict[str, Any]) -> None:
    """A default that depends on another value: deploy the first file that gguf writes."""
    ollama, gguf = filled.get("ollama"), filled.get("gguf")
    if ollama is not None and gguf is not None and ollama["quantize"] is None:
        ollama["quantize"] = gguf["quantize"][0]


def _choose_method_settings(filled: dict[str, Any]) -> None:
    """The other one: what a method's own settings are when they are not given."""
    train = filled.get("train")
    if train is None:
        return
    made = {}
    for key, value in train.items():
        made[key] = value
        if key == "method":
            made |= METHODS[value].settings
    filled["train"] = made | train


def _plain(cls: type, data: dict[str, Any] | None) -> Any:
    """`cls` with the values of `data`; None where `data` has no such key."""
    if data is None:
        return None
    return cls(**{each.name: data.get(each.name) for each in fields(cls)})


def _model(model: dict[str, Any] | None) -> Any:
    if model is None:
        return None
    quantization = _plain(Quantization, model.get("quantization"))
    return _plain(Model, {"trust_remote_code": False, **model, "quantization": quantization})


def _data(data: dict[str, Any] | None) -> Any:
    if data is None:
        return None
    validation = data["validation"]
    with_files = {"fraction": 0.0, "stable": False}
    files = _files([{"repeat": 1.0, **file} for file in validation.get("files", ())])
    held_out = _plain(Validation, {**with_files, **validation, "files": files})
    made = {"train": _files(data["train"]), "validation": held_out}
    made |= {"clean": _clean(data.get("clean"))}
    made |= {"system_variants": tuple(data["system_variants"])}
    return _plain(Data, {**data, **made})


def _clean(clean: dict[str, Any] | None) -> Any:
    if clean is None:
        return None
    near = _plain(NearDuplicates, clean.get("near_duplicates"))
    measured = clean.get("decontaminate")
    if measured is not None:
        files = tuple(_plain(MeasuredFile, file) for file in measured["files"])
        measured = _plain(Decontaminate, {**measured, "files": files})
    made = {"near_duplicates": near, "decontaminate": measured}
    return _plain(Clean, {**clean, **made, "language": tuple(clean["language"])})


def _files(items: Any) -> tuple[DataFile, ...]:
    return tuple(_plain(DataFile, item) for item in items)


def _train(train: dict[str, Any] | None) -> Any:
    if train is None:
        return None
    made = {"adapter": _adapter(train["adapter"]), "rewards": _rewards(train.get("rewards"))}
    return _plain(Train, {**train, **made})


def _rewards(items: Any) -> tuple[Reward, ...] | None:
    """None of a method without rewards."""
    if items is None:
        return None
    return tuple(_plain(Reward, {**item, "words": tuple(item["words"])}) for item in items)


_WITHOUT_LAYERS: dict[str, Any] = {"trainable_layers": None, "trainable_modules": ()}
_NO_ADAPTER: dict[str, Any] = {
    "r": 0,
    "lora_alpha": 0,
    "lora_dropout": 0.0,
    "use_dora": False,
    "use_rslora": False,
    "target_modules": (),
    "exclude_modules": (),
    "modules_to_save": (),
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
}


def _adapter(adapter: dict[str, Any]) -> Adapter:
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in adapter.items()
    }
    others = _NO_ADAPTER if adapter["type"] == "none" else _WITHOUT_LAYERS
    made: Adapter = _plain(Adapter, others | values)
    return made


def _evaluate(evaluate: dict[str, Any] | None) -> Any:
    if evaluate is None:
        return None
    harness = evaluate.get("harness")
    if harness is not None:
        tasks = tuple(_plain(HarnessTask, each) for each in harness["tasks"])
        harness = _plain(Harness, {**harness, "tasks": tasks})
    return _plain(Evaluate, {**evaluate, "harness": harness})


def _compare(compare: dict[str, Any] | None) -> Any:
    return None if compare is None else Compare(tuple(compare["recipes"]))


def _gguf(gguf: dict[str, Any] | None) -> Any:
    if gguf is None:
        return None
    matrix = _plain(Imatrix, gguf.get("imatrix"))
    return _plain(Gguf, {**gguf, "quantize": tuple(gguf["quantize"]), "imatrix": matrix})
