from django.apps import AppConfig


class ClusterApp(AppConfig):
    name = "tests"

    def ready(self) -> None:
        from tests.runs import kinds

        assert kinds.COUNTING
