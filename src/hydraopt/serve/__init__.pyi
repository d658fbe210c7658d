from .attached import (
    Attached as Attached,
    attach as attach,
)
from .engine import (
    Reload as Reload,
)
from .jobs import (
    Limits as Limits,
)
from .limits import (
    IDLE_SECONDS as IDLE_SECONDS,
    OwnHosts as OwnHosts,
    limited as limited,
)
from .server import (
    base_name_of as base_name_of,
    check_key as check_key,
    load_engine as load_engine,
    make_server as make_server,
)
