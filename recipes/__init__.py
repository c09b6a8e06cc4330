"""The parts of training programs that do not need Django: run directories, data, layouts, models.

Nothing here imports Django, Celery or a database driver.
"""
