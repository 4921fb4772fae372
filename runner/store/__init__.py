"""Immutable stage outputs under the key of their inputs: digests, locks, staging, manifest."""
