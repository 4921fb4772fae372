"""Compare base and tuned model: held-out loss, and greedy answers to the same questions.

Not loss, but how often the better held-out answer wins, of methods that learn from preferences,
and what answers to held-out prompts earn, of those that learn from rewards. With `metrics` or
`forgetting`, the results of every example are kept for `recipe compare`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import scripts
from runner.recipe.methods import METHODS
from runner.recipe.model import quantization_spec
from runner.stages import fetch_reward
from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "evaluate"
VERSION = 2
OUTPUTS = {
    "answers.jsonl": Class.PLATFORM,
    "examples.*": Class.PLATFORM,  # a pattern: there with metrics or forgetting only
    "evaluation.json": Class.MEASURED,
}
NEEDS = ("fetch", "fetch_reward", "prepare", "train")
ENVIRONMENT = "evaluate"  # without task metrics; see `environment`
WITH_METRICS = "metrics"
TOOLS: tuple[str, ...] = ()
DEVICE = True

_TRAINED = {"lora": "adapter", "none": "model"}
_OWN_TEXTS = ("general.jsonl", "neutral.txt")  # of runner/scripts/evaluation


def wanted(recipe: Recipe) -> bool:
    """Only when the recipe has the section."""
    return recipe.evaluate is not None


def environment(recipe: Recipe) -> str:
    """Task metrics have an own one, so that evaluations without them keep theirs."""
    return WITH_METRICS if recipe.evaluate is not None and recipe.evaluate.metrics else ENVIRONMENT


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the questions file and of our own texts, and how this processor multiplies in
    bfloat16."""
    from runner.store.digest import file_sha256
    from runner.system.determinism import bfloat16_path

    assert recipe.evaluate is not None
    facts = {}
    if recipe.evaluate.questions is not None:
        facts["questions"] = file_sha256(recipe.resolve(recipe.evaluate.questions))
    if recipe.evaluate.forgetting:
        texts = Path(scripts.__file__).parent / "evaluation"
        facts |= {name: file_sha256(texts / name) for name in _OWN_TEXTS}
    half = recipe.model.dtype != "float32" or recipe.model.quantization is not None
    if half and (path := bfloat16_path()):
        facts["bfloat16_path"] = path
    return facts


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The section, the contents of both models, and what they are asked."""
    trained = _TRAINED[recipe.train.adapter.type]
    assert recipe.evaluate is not None
    return {
        **_settings(recipe),
        "questions": recipe.evaluate.questions is not None,  # `snapshot` has their bytes
        "model": upstream["fetch"].digest("model/*"),
        "trained": upstream["train"].digest(f"{trained}/*"),
        "tokens": upstream["prepare"].digest("validation.tokens.safetensors"),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
        "template": upstream["prepare"].digest("chat_template.jinja"),
        **fetch_reward.key_fact(upstream),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write answers and numbers into `folder`. Raises StageFailed."""
    assert recipe.evaluate is not None
    trained = _TRAINED[recipe.train.adapter.type]
    prepared = inputs["prepare"]
    places = {
        "model": inputs["fetch"].folder / "model",
        "trained": inputs["train"].folder / trained,
        "tokens": prepared.path("validation.tokens.safetensors"),
        "prompts": prepared.path("prompts.jsonl"),
        "template": prepared.path("chat_template.jinja"),
        **fetch_reward.places(inputs),
    }
    if recipe.evaluate.questions is not None:
        places["questions"] = recipe.resolve(recipe.evaluate.questions)
    context.run_script(
        _script(recipe),
        _settings(recipe),
        inputs=places,
        folder=folder,
        environment=environment(recipe),
    )


def _script(recipe: Recipe) -> str:
    method = METHODS[recipe.train.method]
    if recipe.train.method == "ppo":
        return "evaluate_scores"
    if method.generates:
        return "evaluate_rewards"
    return "evaluate_preferences" if method.compares else "evaluate"


def _settings(recipe: Recipe) -> dict[str, Any]:
    assert recipe.evaluate is not None
    return {
        "loss": recipe.evaluate.loss,
        "samples": recipe.evaluate.samples,
        "max_new_tokens": recipe.evaluate.max_new_tokens,
        "questions": recipe.evaluate.questions,
        **({"metrics": True} if recipe.evaluate.metrics else {}),
        **({"forgetting": True} if recipe.evaluate.forgetting else {}),
        "trained": _TRAINED[recipe.train.adapter.type],
        "system": recipe.data.system,
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        **({"trust_remote_code": True} if recipe.model.trust_remote_code else {}),
        **quantization_spec(recipe.model),
        **_comparison(recipe),
    }


def _comparison(recipe: Recipe) -> dict[str, Any]:
    """How answers are scored by the method; nothing where none are compared."""
    train = recipe.train
    if train.method == "ppo":
        return {
            "seed": recipe.seed,
            "response_length": train.response_length,
            "temperature": train.temperature,
            **({"shrunken": True} if recipe.shrink is not None else {}),
        }
    if METHODS[train.method].generates:
        return {
            "rewards": [each.spec for each in train.rewards or ()],
            "max_completion_length": train.max_completion_length,
        }
    if not METHODS[train.method].compares:
        return {}
    mean = train.method in ("orpo", "simpo") or train.loss_type == "ipo"
    return {"method": train.method, "mean": mean}
