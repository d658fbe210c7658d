from .adapters import (
    Adapter as Adapter,
    read_adapter as read_adapter,
    read_adapters as read_adapters,
)
from .bundle import (
    Bundle as Bundle,
    TaskAdapter as TaskAdapter,
    open_bundle as open_bundle,
    verify_bundle as verify_bundle,
)
from .errors import (
    HydraoptError as HydraoptError,
)
from .export import (
    export_task as export_task,
)
from .inspect import (
    inspect_adapters as inspect_adapters,
    inspect_bundle as inspect_bundle,
)
from .merging import (
    MergeResult as MergeResult,
    add as add,
    merge as merge,
    remove as remove,
    replace as replace,
    shrink as shrink,
)
from .report import (
    push_to_hub as push_to_hub,
    write_report as write_report,
)
from .serve import (
    Attached as Attached,
    attach as attach,
)
from .version import (
    __version__ as __version__,
)

__all__: list[str]
