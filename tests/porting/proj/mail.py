"""E-mail: many short tasks, at a rate that the provider allows."""

import json
import time
from pathlib import Path
from smtplib import SMTPException, SMTPServerDisconnected

from engine import shared_task


class Server:
    """Stands for ``smtplib.SMTP``: delivers into a folder, unless a file ``down`` says that it is not there."""

    def __init__(self, outbox: str) -> None:
        self.outbox = Path(outbox)

    def __enter__(self) -> "Server":
        down = self.outbox / "down"
        if down.exists():
            down.unlink()
            raise SMTPServerDisconnected("Connection unexpectedly closed")
        return self

    def __exit__(self, *exc_info) -> None:
        """Hangs up."""

    def sendmail(self, to: str, subject: str, message_id: str) -> None:
        mail = {"to": to, "subject": subject, "at": time.time()}
        (self.outbox / f"{message_id}.mail").write_text(json.dumps(mail))


@shared_task(bind=True, rate_limit="100/m", max_retries=3, default_retry_delay=60, ignore_result=False)
def send_email(self, to, subject, outbox="."):
    """Sends an e-mail; tries again when the server hangs up."""
    try:
        with Server(outbox) as server:
            server.sendmail(to, subject, self.request.id)
    except SMTPException as exc:
        raise self.retry(exc=exc, countdown=0.2 * 2**self.request.retries)  # noqa: B904 - as the tutorials have it
    return f"sent to {to} after {self.request.retries} retries"
