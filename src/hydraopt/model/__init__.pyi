from .basemodel import (
    BATCH_TOKENS as BATCH_TOKENS,
    Placed as Placed,
    TaskFactors as TaskFactors,
    attached as attached,
    base_hash as base_hash,
    factors_key as factors_key,
    files_of as files_of,
    hidden_states as hidden_states,
    load_model as load_model,
    misfit as misfit,
    place as place,
    products_of as products_of,
)
from .cache import (
    JsonCache as JsonCache,
    key_of as key_of,
)
from .drift import (
    divergence as divergence,
)
from .forward import (
    batches_of as batches_of,
    check_logits as check_logits,
    contiguous_head as contiguous_head,
    likelihoods as likelihoods,
    logits_of as logits_of,
)
from .generation import (
    NotFiniteError as NotFiniteError,
    RowCache as RowCache,
    ends_of as ends_of,
    generate as generate,
    not_finite as not_finite,
)
from .judge import (
    AnswerJudge as AnswerJudge,
)
from .prompts import (
    prompt_files as prompt_files,
    read_prompt_folder as read_prompt_folder,
    read_prompts as read_prompts,
)
from .texts import (
    Encoded as Encoded,
    batches_by_tokens as batches_by_tokens,
    encode_row as encode_row,
    positions_of as positions_of,
    prompt_text as prompt_text,
)
from .verification import (
    verify_harm as verify_harm,
)
