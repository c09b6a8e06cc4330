"""The rows of language models, evaluations, certificates and chats."""

from finetune.models.agreements import JudgeAgreement
from finetune.models.certificates import Certificate
from finetune.models.chats import (
    MAX_MESSAGE,
    MAX_SYSTEM_PROMPT,
    Conversation,
    Reply,
    Side,
    Turn,
)
from finetune.models.deliveries import Delivery
from finetune.models.doubts import LLM, Sources, doubts_about_evaluation
from finetune.models.evaluations import (
    ALPHA,
    MARGIN,
    MAX_ALPHA,
    MAX_MARGIN,
    MIN_MARGIN,
    BlindVerdict,
    Evaluation,
    EvaluationItem,
    RegressionItem,
    verdict_of,
)
from finetune.models.language_models import WEIGHTS_FILE, Model, with_descendants
from finetune.models.regression import (
    MAX_REGRESSION_MARGIN,
    MIN_REGRESSION_MARGIN,
    REGRESSION_MARGIN,
    RegressionSet,
)

__all__ = [
    "ALPHA",
    "LLM",
    "MARGIN",
    "MAX_ALPHA",
    "MAX_MARGIN",
    "MAX_MESSAGE",
    "MAX_REGRESSION_MARGIN",
    "MAX_SYSTEM_PROMPT",
    "MIN_MARGIN",
    "MIN_REGRESSION_MARGIN",
    "REGRESSION_MARGIN",
    "WEIGHTS_FILE",
    "BlindVerdict",
    "Certificate",
    "Conversation",
    "Delivery",
    "Evaluation",
    "EvaluationItem",
    "JudgeAgreement",
    "Model",
    "RegressionItem",
    "RegressionSet",
    "Reply",
    "Side",
    "Sources",
    "Turn",
    "doubts_about_evaluation",
    "verdict_of",
    "with_descendants",
]
