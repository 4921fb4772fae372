"""Rules of the training methods: what each learns from, its settings, the stages it can have."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding, listed
from runner.recipe.methods import METHODS, SETTINGS, methods_of, methods_with
from runner.recipe.model import Recipe


@check("train")
def settings_are_the_methods_own(recipe: Recipe) -> Iterator[Finding]:
    """What another method is told would be ignored."""
    train = recipe.train
    for name in SETTINGS:
        if getattr(train, name) is None or name in METHODS[train.method].own:
            continue
        owners = methods_with(name)
        message = f"train.{name} is a setting of {listed(owners)}, and train.method is "
        message += train.method
        hint = f"remove it, or write method: {owners[0]}"
        yield Finding("E245", f"/train/{name}", message, hint, "key")


@check("data", "train")
def rows_are_what_the_method_learns_from(recipe: Recipe) -> Iterator[Finding]:
    """A pair has no single answer to imitate, and a conversation nothing to compare."""
    method = recipe.train.method
    known = METHODS[method].formats
    for pointer, item in recipe.data_files():
        if item.format not in known:
            message = f"{method} learns from rows of format {listed([*known])}, not {item.format}"
            hint = f"give it such rows, or write method: {methods_of(item.format)[0]}"
            yield Finding("E246", f"{pointer}/format", message, hint)


@check("train", "evaluate", "merge", "gguf")
def a_reward_model_writes_nothing(recipe: Recipe) -> Iterator[Finding]:
    """It has a score where a language model has words."""
    if recipe.train.method != "reward":
        return
    for section in ("merge", "gguf"):
        if getattr(recipe, section) is not None:
            message = f"a reward model scores answers and writes none: it has no {section}"
            yield Finding("E247", f"/{section}", message, "remove the section", "key")
    evaluate = recipe.evaluate
    if evaluate is None:
        return
    if evaluate.samples:
        message = f"a reward model scores answers and writes none: {evaluate.samples} samples"
        yield Finding("E247", "/evaluate/samples", f"{message} are wanted", "write samples: 0")
    if evaluate.questions is not None:
        message = "a reward model scores answers and writes none: it cannot be asked questions"
        yield Finding("E247", "/evaluate/questions", message, "remove it")
    if evaluate.forgetting:
        message = "a reward model scores answers and writes none: it answers no general prompts"
        yield Finding("E247", "/evaluate/forgetting", message, "remove it")
    if evaluate.harness is not None:
        message = "a reward model scores answers and writes none: it can do no task"
        yield Finding("E247", "/evaluate/harness", message, "remove it")


@check("train", "reward")
def ppo_has_a_reward_model(recipe: Recipe) -> Iterator[Finding]:
    """It learns from scores, and no other method reads any."""
    method = recipe.train.method
    if method == "ppo" and recipe.reward is None:
        message = "ppo learns from the scores of a reward model, and the recipe names none"
        hint = 'add "reward: {recipe: reward.yaml}", a recipe of method reward'
        yield Finding("E268", "/train/method", message, hint)
    if method != "ppo" and recipe.reward is not None:
        message = f"a reward model scores the answers of ppo, and train.method is {method}"
        yield Finding("E268", "/reward", message, "remove the section, or write method: ppo", "key")


@check("train")
def label_smoothing_has_an_effect(recipe: Recipe) -> Iterator[Finding]:
    """Two of the losses do not read it, and one is nothing without it."""
    train = recipe.train
    if train.loss_type in ("ipo", "hinge") and train.label_smoothing:
        message = f"train.label_smoothing has no effect with loss_type: {train.loss_type}"
        hint = "remove it, or write loss_type: sigmoid or robust"
        yield Finding("E248", "/train/label_smoothing", message, hint)
    if train.loss_type == "robust" and not train.label_smoothing:
        message = "loss_type robust is sigmoid as long as train.label_smoothing is 0"
        hint = "add label_smoothing, the part of the pairs that may be the wrong way round"
        yield Finding("E248", "/train/loss_type", message, hint)


@check("train")
def dropout_is_off_where_answers_are_compared(recipe: Recipe) -> Iterator[Finding]:
    """TRL and LLaMA Factory switch it off: noise would pass for preference."""
    train = recipe.train
    if METHODS[train.method].compares and train.adapter.lora_dropout:
        message = f"train.adapter.lora_dropout has no effect with method: {train.method}, which "
        message += "compares likelihoods without dropout"
        yield Finding("E249", "/train/adapter/lora_dropout", message, "remove it, or write 0.0")


@check("train")
def kto_sees_several_rows(recipe: Recipe) -> Iterator[Finding]:
    """How far the model has left its reference is estimated from the rows of one batch."""
    train = recipe.train
    if train.method == "kto" and train.per_device_train_batch_size == 1:
        message = "kto estimates its KL term from the rows of one batch, and a batch has one row"
        pointer = "/train/per_device_train_batch_size"
        given = recipe.origin(pointer) is not None
        hint = "write per_device_train_batch_size: 4 or more; lower gradient_accumulation_steps"
        yield Finding("W256", pointer if given else "/train/method", message, hint)
