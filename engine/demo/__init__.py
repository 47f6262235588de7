"""A worker with something to do: it reads documents, indexes them and searches them.

``engine.demo:app`` is what the shipped ``conf/worker.toml`` runs. ``python -m engine.demo`` starts it, feeds it the
documents of this machine's Python, shows what came of them and stops it.
"""

from engine.demo.tasks import app

__all__ = ["app"]
