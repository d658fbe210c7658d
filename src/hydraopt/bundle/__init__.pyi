from .collections import (
    BundleStorage as BundleStorage,
    collection_at as collection_at,
    folder_of as folder_of,
)
from .encoding import (
    CORE as CORE,
    dumps as dumps,
    header_of as header_of,
)
from .entries import (
    ANSWER_TOKENS as ANSWER_TOKENS,
    MOST_ANSWER_TOKENS as MOST_ANSWER_TOKENS,
    Added as Added,
    Harm as Harm,
    ModuleEntry as ModuleEntry,
    answer_tokens_in as answer_tokens_in,
    default_key as default_key,
    states_estimates as states_estimates,
)
from .folder import (
    Folder as Folder,
)
from .following import (
    Following as Following,
)
from .limits import (
    most_drawn as most_drawn,
)
from .manifest import (
    Manifest as Manifest,
    TaskEntry as TaskEntry,
    TaskRow as TaskRow,
)
from .opening import (
    is_bundle as is_bundle,
    open_bundle as open_bundle,
    verify_bundle as verify_bundle,
)
from .originals import (
    kept_ranks as kept_ranks,
    stored_config as stored_config,
)
from .parts import (
    TaskPiece as TaskPiece,
    check_current as check_current,
)
from .payload import (
    Carried as Carried,
    pack_carried as pack_carried,
)
from .peft.extras import (
    Base as Base,
    changing_extras as changing_extras,
    exported_extras as exported_extras,
    folded_extras as folded_extras,
    is_of_base as is_of_base,
    layer_below as layer_below,
    rounded_copy as rounded_copy,
    weights_at_hand as weights_at_hand,
)
from .peft.folder import (
    CONFIG as CONFIG,
    WEIGHTS as WEIGHTS,
    base_words as base_words,
    check_file as check_file,
    check_target as check_target,
    load_lines as load_lines,
    read_back as read_back,
    write_card as write_card,
    write_peft as write_peft,
)
from .peft.pairs import (
    Pair as Pair,
    balanced as balanced,
    check_numbers as check_numbers,
    check_room as check_room,
    pairs_of as pairs_of,
)
from .pulling import (
    pull as pull,
)
from .reader import (
    Bundle as Bundle,
    no_such_task as no_such_task,
)
from .splitting import (
    as_folder as as_folder,
    check_output as check_output,
    check_parent as check_parent,
    core_name as core_name,
    join as join,
    size_apart as size_apart,
    split as split,
    written as written,
    written_folder as written_folder,
)
from .task import (
    TaskAdapter as TaskAdapter,
)
from .tensors import (
    DENSE_DTYPES as DENSE_DTYPES,
    HEADS as HEADS,
    TensorEntry as TensorEntry,
    checksum as checksum,
    dtype_named as dtype_named,
    file_chunks as file_chunks,
    holds as holds,
    matching_tensor as matching_tensor,
    reference_of as reference_of,
    rounded as rounded,
    rounded_matrix as rounded_matrix,
)
from .verification import (
    HarmReport as HarmReport,
    TaskHarm as TaskHarm,
    VerifyReport as VerifyReport,
    distance_from as distance_from,
)
from .writer import (
    PackedBundle as PackedBundle,
    pack_bundle as pack_bundle,
)
