"""The app of a project that makes none of its own: ``engine start --app engine_django.app``."""

from engine_django.engine import Engine

app = Engine("django")
