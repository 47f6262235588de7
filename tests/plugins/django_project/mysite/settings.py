"""Settings as `startproject` writes them, cut to what is needed. Its files are in the current directory."""

import os

SECRET_KEY = "for tests"
DEBUG = True
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "notes", "engine_django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.abspath("db.sqlite3")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None

ENGINE = {
    "broker": "sqlite:///engine.db",
    "backend": "sqlite:///engine.db",
    "acks_late": True,
    "routes": {"notes.*": "notes"},
}
