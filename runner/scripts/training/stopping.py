"""How a training is asked to end behind its step: by a file beside its checkpoints."""

STOP = "stop"
STOPPED = "E130"  # the code of its error, which the runner takes for an interruption
