from django.apps import AppConfig


class RewardConfig(AppConfig):
    name = "reward"

    def ready(self) -> None:
        from reward.kinds import register_kinds
        from reward.scores import SCORE
        from runs.kinds import register

        register_kinds()
        register(SCORE)
