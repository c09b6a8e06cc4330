from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "runs"

    def ready(self) -> None:
        from buckets import cache
        from runs.supervision.publishing import names_in_use

        cache.users.append(names_in_use)
