from django.apps import AppConfig


class FinetuneConfig(AppConfig):
    name = "finetune"

    def ready(self) -> None:
        from finetune.kinds import register_kinds
        from finetune.needed_files import register_needs
        from finetune.run_filters import register_references

        register_kinds()
        register_references()
        register_needs()
