from django.apps import AppConfig

JUDGE = "demo-rule"


class DemoConfig(AppConfig):
    name = "demo"

    def ready(self) -> None:
        from demo import rule
        from demo.project import is_demo
        from finetune.evaluation import judges

        judges.register(
            JUDGE,
            "The lamp shop's guideline, as a scoring rule",
            rule.score,
            for_project=is_demo,
        )
