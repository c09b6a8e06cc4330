from django.apps import AppConfig


class RewardConfig(AppConfig):
    name = "reward"

    def ready(self) -> None:
        from reward.kinds import register_kinds

        register_kinds()
