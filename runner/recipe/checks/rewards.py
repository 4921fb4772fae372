"""Rules of methods that learn from their own answers: rewards, groups of answers, room for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding, listed
from runner.recipe.methods import METHODS, PROMPTS
from runner.recipe.model import Recipe, Reward
from runner.scripts.rewards.functions import REWARDS, compiled

FEW = 4  # answers to a prompt, fewer than which their mean is a poor measure of each


@check("train")
def rewards_are_given(recipe: Recipe) -> Iterator[Finding]:
    """Without any there is nothing to learn."""
    train = recipe.train
    if "rewards" not in METHODS[train.method].needs:
        return
    if not train.rewards:
        hint = f"add rewards: [{{name: {next(iter(REWARDS))}}}], or another of docs/methods.md"
        message = f"{train.method} learns from what answers earn, and no reward is named"
        yield Finding("E262", "/train/method", message, hint)
    elif not any(each.weight for each in train.rewards):
        message = "every reward has weight 0: all answers earn the same"
        yield Finding("E262", "/train/rewards", message, "give one of them a weight", "key")


@check("train")
def rewards_have_their_parameters(recipe: Recipe) -> Iterator[Finding]:
    """Those that they need, no others, and such as can be used."""
    for number, reward in enumerate(recipe.train.rewards or ()):
        pointer = f"/train/rewards/{number}"
        yield from _parameters(reward, pointer)
        yield from _pattern(reward, pointer)


def _parameters(reward: Reward, pointer: str) -> Iterator[Finding]:
    kind, given = REWARDS[reward.name], reward.parameters
    for name in given:
        if name not in kind.parameters:
            message = f"the reward {reward.name} does not read {name}"
            known = f": it reads {listed([*kind.parameters])}" if kind.parameters else ""
            yield Finding("E260", f"{pointer}/{name}", message, f"remove it{known}", "key")
    missing = [name for name in kind.needs if name not in given]
    if kind.one_of and not any(name in given for name in kind.one_of):
        missing.append(" or ".join(kind.one_of))
    for name in missing:
        message = f"the reward {reward.name} needs {name}"
        yield Finding("E260", f"{pointer}/name", message, f"add {name}")
    if (reward.min_words or 0) > (reward.max_words or 1 << 62):
        message = f"no answer has at least {reward.min_words} and at most {reward.max_words} words"
        yield Finding("E260", f"{pointer}/max_words", message, "raise it, or lower min_words")


def _pattern(reward: Reward, pointer: str) -> Iterator[Finding]:
    if reward.pattern is None:
        return
    try:
        compiled(reward.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        message = f"this is no regular expression of Python: {error}"
        hint = "correct it; \\ stands before a character that is meant as it is"
        yield Finding("E260", f"{pointer}/pattern", message, hint)


@check("train")
def a_step_has_whole_groups(recipe: Recipe) -> Iterator[Finding]:
    """The answers to one prompt are compared with one another, within one step."""
    train = recipe.train
    if train.num_generations is None:
        return
    answers = train.per_device_train_batch_size * train.gradient_accumulation_steps
    if answers % train.num_generations:
        message = f"a step has {answers} answers (per_device_train_batch_size times "
        message += f"gradient_accumulation_steps), which are no groups of {train.num_generations}"
        pointer = "/train/num_generations"
        given = recipe.origin(pointer) is not None
        hint = f"make their product a multiple of {train.num_generations}, or write a "
        hint += "num_generations that divides it"
        yield Finding("E261", pointer if given else "/train/method", message, hint)
    elif train.num_generations < FEW:
        message = f"each answer is held against the mean of {train.num_generations} only"
        hint = f"write num_generations: {FEW} or more, for a steadier one"
        yield Finding("W262", "/train/num_generations", message, hint)


@check("data", "train")
def prompts_have_room(recipe: Recipe) -> Iterator[Finding]:
    """Prompt and answer share data.max_length."""
    train, data = recipe.train, recipe.data
    if train.max_completion_length is None:
        return
    if train.max_completion_length >= data.max_length:
        message = f"answers of {train.max_completion_length} tokens leave no room for a prompt "
        message += f"within data.max_length, which is {data.max_length}"
        pointer = "/train/max_completion_length"
        given = recipe.origin(pointer) is not None
        hint = "lower max_completion_length, or raise data.max_length"
        yield Finding("E263", pointer if given else "/train/method", message, hint)


@check("data", "train")
def prompts_stay_whole(recipe: Recipe) -> Iterator[Finding]:
    """Rows without answers cannot be cut, and are not cleaned."""
    if all(file.format not in PROMPTS for _, file in recipe.data_files()):
        return
    if recipe.data.too_long == "truncate":
        message = "a prompt without its end asks something else"
        hint = "write too_long: drop, or error"
        yield Finding("E264", "/data/too_long", message, hint)
    if recipe.data.cleaning:
        message = "rows of format prompt are not cleaned: most steps are about their answers"
        yield Finding("E264", "/data/clean", message, "remove the section", "key")
