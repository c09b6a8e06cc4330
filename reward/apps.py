from django.apps import AppConfig


class RewardConfig(AppConfig):
    name = "reward"

    def ready(self) -> None:
        from labeling import suggestions
        from labeling.importing import undoing
        from reward.kinds import register_kinds
        from reward.scores import SCORE
        from reward.snapshots import frozen_since
        from reward.suggestions import of_promoted
        from runs.kinds import register

        register_kinds()
        register(SCORE)
        suggestions.register(of_promoted)
        undoing.USES.append(frozen_since)
