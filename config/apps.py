from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "config"
    verbose_name = "Tiebreak"

    def ready(self) -> None:
        from config import checks

        assert checks
