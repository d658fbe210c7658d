from .aside import (
    Aside as Aside,
    Chosen as Chosen,
    Laid as Laid,
    Place as Place,
    sizes_of as sizes_of,
)
from .blocks import (
    BlockStore as BlockStore,
    WideCore as WideCore,
)
from .chunks import (
    SHARED as SHARED,
    ChunkReader as ChunkReader,
    ChunkWriter as ChunkWriter,
    Scribe as Scribe,
    apart as apart,
    play as play,
    scripts_in as scripts_in,
)
from .core import (
    ROOM as ROOM,
    CoreStore as CoreStore,
    FactorReader as FactorReader,
    ModuleCore as ModuleCore,
)
from .costs import (
    OF_THE_WHOLE as OF_THE_WHOLE,
    Measure as Measure,
    Starts as Starts,
    measure_named as measure_named,
)
from .encoder import (
    CodedModule as CodedModule,
    EncodedModule as EncodedModule,
    Recoded as Recoded,
    encode_bases as encode_bases,
    encode_module as encode_module,
    recode as recode,
    squared_error as squared_error,
)
from .machine import (
    check_memory as check_memory,
    cores as cores,
    in_threads as in_threads,
    most_memory as most_memory,
    one_blas_thread as one_blas_thread,
)
from .matrices import (
    Array as Array,
    Bases as Bases,
    Basis as Basis,
    Factors as Factors,
    distance as distance,
    halved as halved,
    in_range as in_range,
    product_norm as product_norm,
    ratio as ratio,
    relative_error as relative_error,
    thin as thin,
)
from .planner import (
    ModulePlan as ModulePlan,
    modes_of as modes_of,
    plan_module as plan_module,
)
from .plugins import (
    EXPORTER_GROUP as EXPORTER_GROUP,
    METHOD_GROUP as METHOD_GROUP,
    find_registered as find_registered,
)
from .records import (
    DenseRecord as DenseRecord,
    Numbers as Numbers,
    PartsRecord as PartsRecord,
    SplitRecord as SplitRecord,
    SplitSide as SplitSide,
    as_matrix as as_matrix,
    from_matrix as from_matrix,
    matrix_shape as matrix_shape,
    read_common as read_common,
    read_dense as read_dense,
    read_record as read_record,
    read_split_record as read_split_record,
    states_mode as states_mode,
    write_dense as write_dense,
    write_record as write_record,
)
from .sides import (
    FORMS as FORMS,
    BasisRecord as BasisRecord,
    Mode as Mode,
    Way as Way,
    read_basis as read_basis,
    write_basis as write_basis,
)
from .starts import (
    BITS as BITS,
    MOST_DRAWN as MOST_DRAWN,
    Drawn as Drawn,
    Generator as Generator,
    KnownStart as KnownStart,
)
from .stream import (
    MOST_NUMBERS_OF_FILE as MOST_NUMBERS_OF_FILE,
    CodingRoom as CodingRoom,
    StreamReader as StreamReader,
    most_numbers as most_numbers,
)
from .tables import (
    VERSION as VERSION,
)
from .tensors import (
    Given as Given,
    SharedTensor as SharedTensor,
    blocks_of as blocks_of,
    encode_tensor as encode_tensor,
    estimate_tensor as estimate_tensor,
    share_tensor as share_tensor,
)
