from django.apps import AppConfig


class RewardConfig(AppConfig):
    name = "reward"

    def ready(self) -> None:
        from labeling.core import suggestions
        from labeling.importing import undoing
        from reward.kinds import register_kinds
        from reward.preferences.snapshots import frozen_since
        from reward.scoring.scores import SCORE
        from reward.scoring.suggestions import of_promoted
        from runs.kinds import register

        register_kinds()
        register(SCORE)
        suggestions.register(of_promoted)
        undoing.USES.append(frozen_since)
