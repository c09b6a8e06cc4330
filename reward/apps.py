from django.apps import AppConfig


class RewardConfig(AppConfig):
    name = "reward"

    def ready(self) -> None:
        from labeling.core import suggestions
        from labeling.importing import undoing
        from reward.kinds import register_kinds
        from reward.needed_files import register_needs
        from reward.onnx import ONNX
        from reward.preferences.snapshots import frozen_since
        from reward.run_filters import register_references
        from reward.scoring.scores import SCORE
        from reward.scoring.suggestions import of_promoted
        from runs.kinds import register

        register_kinds()
        register_references()
        register_needs()
        register(SCORE)
        register(ONNX)
        suggestions.register(of_promoted)
        undoing.USES.append(frozen_since)
