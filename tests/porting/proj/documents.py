"""Document processing: the long task of every tutorial."""

import logging
import time
from pathlib import Path

from pydantic import BaseModel, Field

from engine import SoftTimeLimitExceeded

from .celery_app import app
from .mail import send_email

logger = logging.getLogger(__name__)


class Document(BaseModel):
    """What is to be processed."""

    id: str = Field(min_length=1)
    folder: Path
    language: str = "en"
    notify: list[str] = Field(default_factory=list)


class Report(BaseModel):
    """What came out."""

    document_id: str
    pages: int
    words: int
    complete: bool = True
    attempts: int = 1
    redelivered: bool = False


def download(document: Document) -> list[str]:
    """Fetches the pages. The storage is away as long as there is a file ``outage``."""
    outage = document.folder / "outage"
    if outage.exists():
        outage.unlink()
        raise ConnectionError("the storage does not answer")
    return (document.folder / f"{document.id}.txt").read_text().split("\f")


def recognise(page: str) -> int:
    """Counts the words of a page, slowly."""
    time.sleep(0.02)
    return len(page.split())


@app.task(
    bind=True,
    name="documents.process",
    autoretry_for=(ConnectionError, TimeoutError),
    retry_backoff=True,
    retry_backoff_max=60,
    retry_jitter=True,
    max_retries=5,
    soft_time_limit=540,
    time_limit=600,
    acks_late=True,
)
def process_document(self, document: Document) -> Report:
    """Processes a document page by page; out of time, it returns what it has."""
    logger.info("processing %s, attempt %d", document.id, self.request.retries + 1)
    self.update_state(state="PROGRESS", meta={"step": "download", "percent": 0})
    pages = download(document)
    report = Report(
        document_id=document.id,
        pages=0,
        words=0,
        attempts=self.request.retries + 1,
        redelivered=self.request.delivery_info["redelivered"],
    )
    try:
        for number, page in enumerate(pages, start=1):
            report.words += recognise(page)
            report.pages = number
            self.update_state(state="PROGRESS", meta={"step": "recognise", "percent": 100 * number // len(pages)})
    except SoftTimeLimitExceeded:
        logger.warning("%s: out of time after %d of %d pages", document.id, report.pages, len(pages))
        report.complete = False
        return report
    self.update_state(state="PROGRESS", meta={"step": "notify", "percent": 100})
    for address in document.notify:
        send_email.delay(address, f"{document.id} is ready", outbox=str(document.folder))
    return report


@app.task
def summarise(report: Report) -> str:
    """Says it in one line. Linked to `process_document`."""
    return f"{report.document_id}: {report.words} words"
