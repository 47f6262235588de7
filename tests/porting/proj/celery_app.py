"""The app."""

from engine import Engine as Celery

app = Celery(
    "proj",
    broker="redis://localhost:6379/0",
    backend="redis://localhost:6379/1",
    include=["proj.documents", "proj.mail"],
)

if __name__ == "__main__":
    print(app.tasks)
