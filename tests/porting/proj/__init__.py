"""A project as Celery users write it; only the first import of each module is not theirs."""

from .celery_app import app as celery_app

__all__ = ["celery_app"]
