"""Processes that start at once: copies of one that has loaded torch, and done nothing else."""

from multiprocessing import get_context
from multiprocessing.context import BaseContext

LOADED = ["scripts.bench.scale.counted", "scripts.bench.scale.measured"]


def copies() -> BaseContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context
