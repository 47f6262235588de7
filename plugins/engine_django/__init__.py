"""Django and the engine: settings from Django's, tasks of installed apps, database connections around tasks.

See README.md. Needs the extra ``django``.
"""

from engine_django.engine import Engine

__all__ = ["Engine"]
