"""Tasks that use the database."""

import os

from django.db import connection, connections, transaction

from engine import shared_task

from .models import Note

# A query while the module is imported, as careless modules do: its connection must not reach the children.
with connection.cursor() as _cursor:
    _cursor.execute("select 1")
IMPORTED_BY = os.getpid()


@shared_task
def count(key: int) -> str:
    note = Note.objects.get(id=key)
    note.counted_by = os.getpid()
    note.save()
    return note.text


@shared_task
def inherited() -> list[str]:
    """Names the connections that were open before this task used one."""
    return [found.alias for found in connections.all(initialized_only=True) if found.connection is not None]


@shared_task
def born_in() -> list[int]:
    return [IMPORTED_BY, os.getppid(), os.getpid()]


@shared_task
def queries() -> int:
    Note.objects.count()
    return len(connection.queries)


@shared_task
def fail_in_transaction() -> None:
    with transaction.atomic():
        Note.objects.create(text="never kept")
        raise ValueError("rolled back")
