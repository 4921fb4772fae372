"""What `recipe bench train` found, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.bench.train import Bench

_NAMES = {
    "non_pad": "without padding",
    "padded": "computed, padding included",
    "supervised": "with a label",
}


def as_text(found: Bench) -> str:
    """A line a figure; what could not be had is said."""
    figures, seconds = found.figures, found.figures.seconds
    lines = [
        f"{found.recipe} on {found.device}: {figures.steps} steps measured, behind "
        f"{figures.left_out} of warm-up that are left out"
    ]
    lines += [
        f"tokens per second  {figures.per_second[kind]:>12,.1f}  {name}"
        for kind, name in _NAMES.items()
    ]
    lines.append(
        f"seconds per step   {seconds.median:>12.3f}  median; half of them between "
        f"{seconds.lower:.3f} and {seconds.upper:.3f}"
    )
    lines += [f"useful FLOP/s      {_flops(found)}", f"energy             {_energy(found)}"]
    if found.peak_memory is not None:
        lines.append(f"memory at the peak {found.peak_memory / 1e9:>12.1f}  GB")
    return "\n".join(lines)


def _flops(found: Bench) -> str:
    roofline, figures = found.roofline, found.figures
    if figures.flops is None:
        return "not known: the model's shapes are not at hand"
    if figures.mfu is None:
        return f"{figures.flops:>12.2e}  at least; the peak of {roofline.source} is not known"
    return (
        f"{figures.flops:>12.2e}  at least, {100 * figures.mfu:.1f} % of {roofline.peak:.2e} "
        f"({roofline.source})"
    )


def _energy(found: Bench) -> str:
    if found.joules is None:
        return "not readable here"
    return f"{found.joules_per_token:>12.4f}  J a token without padding: {found.energy}"


def as_data(found: Bench) -> dict[str, Any]:
    """Plain JSON data; null where something could not be had."""
    figures, seconds = found.figures, found.figures.seconds
    return {
        "recipe": found.recipe,
        "device": found.device,
        "steps": figures.steps,
        "warm_up_left_out": figures.left_out,
        "tokens_per_second": dict(figures.per_second),
        "seconds_per_step": {
            "lower_quartile": seconds.lower,
            "median": seconds.median,
            "upper_quartile": seconds.upper,
        },
        "flops": figures.flops,
        "mfu": figures.mfu,
        "peak_flops": found.roofline.peak or None,
        "peak_of": found.roofline.source,
        "flop_per_token": found.roofline.flop_per_token,
        "joules": found.joules,
        "energy_of": found.energy or None,
        "peak_memory": found.peak_memory,
    }
