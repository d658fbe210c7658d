from .alignment import (
    MergeSet as MergeSet,
    MiddlePrice as MiddlePrice,
    align as align,
)
from .changes import (
    Changed as Changed,
    add as add,
    check_before as check_before,
    remove as remove,
    rename as rename,
    replace as replace,
)
from .hydra import (
    Merged as Merged,
)
from .job import (
    Job as Job,
    inputs_of as inputs_of,
)
from .limits import (
    Limit as Limit,
    MeanError as MeanError,
    harm_limit_in as harm_limit_in,
    merge_recipe as merge_recipe,
)
from .methods import (
    METHODS as METHODS,
    Combined as Combined,
    Method as Method,
    apply as apply,
    combine as combine,
)
from .options import (
    DEFAULT_HARM as DEFAULT_HARM,
    DEFAULT_MEASURE as DEFAULT_MEASURE,
    HarmJudge as HarmJudge,
    HarmSettings as HarmSettings,
    Look as Look,
    MeasuredHarm as MeasuredHarm,
    MergeOptions as MergeOptions,
    check_harm_limit as check_harm_limit,
)
from .pipeline import (
    HARM_UNITS as HARM_UNITS,
    MergeResult as MergeResult,
    Plan as Plan,
    merge as merge,
    plan as plan,
    plan_limit as plan_limit,
    prepare as prepare,
    solve as solve,
    write as write,
)
from .refreshing import (
    Expected as Expected,
    Grown as Grown,
    Refreshed as Refreshed,
    expected_saving as expected_saving,
    refresh as refresh,
)
from .search import (
    ERROR_SLOPE as ERROR_SLOPE,
)
from .shrinking import (
    decoded_set as decoded_set,
    shrink as shrink,
)
from .solving import (
    CodedSize as CodedSize,
    Sizes as Sizes,
    passes_within_reach as passes_within_reach,
    price_of as price_of,
)
from .weights import (
    Weights as Weights,
)
from .workers import (
    Engine as Engine,
    Local as Local,
    OnRay as OnRay,
)
