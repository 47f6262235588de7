"""A small Django project, of which tests run the tasks."""
