"""The template, which imports the app and forks, and the children, which run tasks."""
