"""What one of several processes holds of a model in parts (scripts/training/together/sharded.py).

Weights, gradients and optimizer in equal parts; whole for a while: what lies outside of the layers,
two layers (the one at work, and the next, which is fetched meanwhile), and the gradient of one.
Activations are the process's own. Each process reads its part from the files, a block of rows at a
time (scripts/training/together/base_in_parts.py), unless the model is loaded in a way of its own.
"""

from __future__ import annotations

import math

from runner.plan.shapes import Shapes, in_layer

AT_ONCE = 2  # layers that are whole
# Of rows on their way from a file: as they are stored, and rounded to the recipe's dtype.
READING_BYTES = 3 * (32 << 20)
GATHERED = 3  # times a weight's size, while it is put together: what gloo does, measured


def part(size: int, processes: int) -> int:
    """Bytes of one process's part."""
    return math.ceil(size / processes)


def whole_for_a_while(shapes: Shapes, value: int, trained: int) -> int:
    """Bytes of the layers that are put together, `value` a number, and of one layer's gradient.

    `trained`: bytes of all gradients.
    """
    layers = [weight.size for weight in shapes.weights if in_layer(weight.module) is not None]
    outside = shapes.parameters - sum(layers)
    layer = math.ceil(sum(layers) / shapes.layers)
    return value * (outside + AT_ONCE * layer) + math.ceil(trained / shapes.layers)
