"""The tasks whose events are looked at: copied into the engine's folder."""

import os
import time

from engine import Engine

app = Engine("events")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail() -> None:
    raise ValueError("no apples")


@app.task(bind=True)
def again(self) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0.05, exc=OSError("later"))
    return self.request.retries


@app.task
def die() -> None:
    os._exit(3)


@app.task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task(acks_late=False)
def early() -> str:
    return "early"


@app.task(track_started=True)
def tracked() -> str:
    return "tracked"
