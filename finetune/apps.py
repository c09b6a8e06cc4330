from django.apps import AppConfig


class FinetuneConfig(AppConfig):
    name = "finetune"

    def ready(self) -> None:
        from finetune.kinds import register_kinds

        register_kinds()
