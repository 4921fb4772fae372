"""Take over what a training that was started in LLaMA Board left behind.

spec as of `train_by_cli`, and in spec.inputs `saved`, the training's folder, and `read`, the tokens
that it read. Writes `adapter/` or `model/`, and `trace.jsonl`.
"""

from __future__ import annotations

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.llamafactory.llamafactory_run import collect, measure_tokens


def take_over(spec: Spec, events: Events) -> None:
    """Copy and measure."""
    measure_tokens(spec.inputs["read"], events)
    collect(spec.inputs["saved"], spec, events)


if __name__ == "__main__":
    main(take_over)
