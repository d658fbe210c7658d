from .builder import (
    build as build,
)
from .figures import (
    check_plot as check_plot,
    draw as draw,
)
from .output import (
    push_to_hub as push_to_hub,
    write_card as write_card,
    write_report as write_report,
)
from .page import (
    make_server as make_server,
)
