"""Rules about what the model was made for, and what cannot be said without its facts."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.base_recipe import innermost
from runner.recipe.finding import Finding, listed
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts, facts_of_folder, facts_of_result
from runner.recipe.suggest import nearest
from runner.recipe.typed import how_to_get_sizes
from runner.report.printable import quoted


def check_context(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A row that is longer than the context has positions that the model has never seen."""
    context = facts.context if facts else None
    if facts is None or context is None or recipe.data.max_length <= context:
        return
    length = recipe.data.max_length
    message = f"data.max_length is {length}, and the model has a context of {context} tokens"
    hint = f"write {context} or less (by {facts.where})"
    yield Finding("E243", "/data/max_length", message, hint)


def check_targets(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A name that no layer has: the training would find it out when the model is loaded."""
    from runner.plan.shapes import Kind, UnknownShapesError, shapes_of

    adapter = recipe.train.adapter
    if facts is None or isinstance(adapter.target_modules, str):
        return
    try:
        weights = shapes_of(facts.config).weights
    except UnknownShapesError:
        return  # the training looks at the model itself
    modules = [each.module for each in weights]
    fit = (each.module for each in weights if each.kind in (Kind.LINEAR, Kind.EMBEDDING))
    ends = sorted({module.rpartition(".")[2] for module in fit})
    for index, name in enumerate(adapter.target_modules):
        if any(module == name or module.endswith(f".{name}") for module in modules):
            continue
        close = nearest(name.rpartition(".")[2], ends)
        message = f"the model has no layer {quoted(name, 60)}"
        hint = f"did you mean {close}?" if close else f"it has {listed(ends)}"
        yield Finding("E244", f"/train/adapter/target_modules/{index}", message, hint)


def check_learning_layers(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """More layers than there are, or a module that no layer has."""
    from runner.plan.shapes import UnknownShapesError, in_layer, shapes_of

    adapter = recipe.train.adapter
    if facts is None or adapter.trainable_layers is None:
        return
    try:
        shapes = shapes_of(facts.config)
    except UnknownShapesError:
        return
    if abs(adapter.trainable_layers) > shapes.layers:
        message = f"trainable_layers is {adapter.trainable_layers}, and the model has "
        message += f"{shapes.layers} layers"
        hint = f"write at most {shapes.layers}, or remove it: every weight learns then"
        yield Finding("E251", "/train/adapter/trainable_layers", message, hint)
    known = sorted({place[1] for each in shapes.weights if (place := in_layer(each.module))})
    for index, name in enumerate(adapter.trainable_modules):
        if name not in known:
            close = nearest(name, known)
            message = f"no layer of the model has a module named {quoted(name, 60)}"
            hint = f"did you mean {close}?" if close else f"a layer has {listed(known)}"
            yield Finding("E251", f"/train/adapter/trainable_modules/{index}", message, hint)


def check_template_of_base(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """Who trained on one template answers in it: another one is for the most part a slip."""
    from runner.stages.prepare import template_file

    base, given = recipe.base, recipe.data.chat_template
    if base is None or given == "model" or facts is None or facts.chat_template is None:
        return
    if "pretrain" in (base.train.method, recipe.train.method):
        return  # no template plays a part in one of them
    if template_file(recipe).read_text(encoding="utf-8", errors="replace") != facts.chat_template:
        message = f"the recipe {base.name} trained with another chat template than {quoted(given)}"
        hint = "remove chat_template: the one that it trained with goes on"
        yield Finding("W259", "/data/chat_template", message, hint)


def check_scorer(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A reward model that cannot read what the policy writes, as far as its files say it."""
    reward = recipe.reward
    if reward is None:
        return
    place = "/reward/path" if reward.recipe is None else "/reward/recipe"
    scorer = _facts_of_scorer(recipe)
    if scorer is None:
        return
    if reward.path is not None:
        yield from _scores(scorer, place)
    theirs = scorer.config.get("vocab_size")
    ours = facts.config.get("vocab_size") if facts else None
    if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs:
        message = (
            f"the reward model has {theirs} tokens, and the model has {ours}: another tokenizer"
        )
        hint = "train the reward model from the same base as the policy"
        yield Finding("E266", place, message, hint)
        return
    template = facts.chat_template if facts else None
    if template and scorer.chat_template and template != scorer.chat_template:
        message = "the reward model was trained with another chat template than the model has"
        hint = "train it with this one: what is scored is written in the policy's"
        yield Finding("W263", place, message, hint)


def _facts_of_scorer(recipe: Recipe) -> Facts | None:
    assert recipe.reward is not None
    if recipe.scorer is not None:
        return facts_of_result(recipe.scorer)
    if recipe.reward.path is None:
        return None
    return facts_of_folder(recipe.resolve(recipe.reward.path), "its config.json")


def _scores(scorer: Facts, place: str) -> Iterator[Finding]:
    """A folder's model must be one that scores."""
    names = scorer.config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and not name.endswith("ForSequenceClassification"):
        message = f"the folder holds a {quoted(name, 60)}, which gives no score"
        hint = "name a model with one label: ...ForSequenceClassification"
        yield Finding("E267", place, message, hint)


def check_room_for_answers(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """Prompt and answer stand in one context."""
    context, answer = facts.context if facts else None, recipe.train.response_length
    if facts is None or context is None or answer is None:
        return
    if recipe.data.max_length <= context < recipe.data.max_length + answer:
        message = (
            f"data.max_length {recipe.data.max_length} and train.response_length {answer} are "
        )
        message += f"more than the model's context of {context} tokens"
        hint = f"write {context - answer} or less for max_length (by {facts.where})"
        yield Finding("E269", "/train/response_length", message, hint)


def not_checked(recipe: Recipe, facts: Facts | None) -> str:
    """What could not be checked for want of the model's facts; "" when all was."""
    if facts is not None or innermost(recipe).model.path is not None:
        return ""
    how = how_to_get_sizes(recipe)
    return f"not checked: max_length, chat template and widths against the model: {how}"
