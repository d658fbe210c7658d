from .compare import (
    EvaluationRequest as EvaluationRequest,
    evaluate as evaluate,
)
from .probes import (
    ChoiceChange as ChoiceChange,
    GroupMeasures as GroupMeasures,
    Share as Share,
)
from .results import (
    Evaluation as Evaluation,
    ProbesAsked as ProbesAsked,
    TaskResult as TaskResult,
    read_compared as read_compared,
)
