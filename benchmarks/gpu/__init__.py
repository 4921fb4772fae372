"""Evidence from a GPU: what the plan counts beside what a device takes. `make gpu-evidence`.

usage: python -m benchmarks.gpu [--seconds 600] [--only TEXT]

The parent needs the standard library alone, so that it also runs where nothing can be installed.
Whatever needs torch is in children of their own, by the interpreter that interpreter.py chose.
"""
