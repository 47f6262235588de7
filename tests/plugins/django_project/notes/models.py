"""One table."""

from django.db import models


class Note(models.Model):
    """A note, and who counted it."""

    text = models.CharField(max_length=100)
    counted_by = models.IntegerField(null=True)
