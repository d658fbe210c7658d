from .adapters import (
    AdaptersReport as AdaptersReport,
    AdapterSummary as AdapterSummary,
    inspect_adapters as inspect_adapters,
)
from .bundle import (
    BundleReport as BundleReport,
    ModuleCost as ModuleCost,
    Originals as Originals,
    TaskCost as TaskCost,
    TaskDetails as TaskDetails,
    TypeCost as TypeCost,
    bytes_by_place as bytes_by_place,
    change_of as change_of,
    compared as compared,
    detailed_tasks as detailed_tasks,
    inspect_bundle as inspect_bundle,
    originals_of as originals_of,
    task_rows as task_rows,
)
from .collection import (
    Difference as Difference,
    Listing as Listing,
    difference as difference,
    listing as listing,
)
from .doctor import (
    look as look,
)
from .likeness import (
    ModuleComparison as ModuleComparison,
    TaskCosines as TaskCosines,
    TypeComparison as TypeComparison,
    module_type as module_type,
    task_cosines as task_cosines,
)
