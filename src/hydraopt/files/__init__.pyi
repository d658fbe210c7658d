from .addresses import (
    AnyPath as AnyPath,
    Check as Check,
    Entry as Entry,
    Url as Url,
    gone as gone,
    is_url as is_url,
    place_of as place_of,
)
from .cache import (
    Cache as Cache,
    alone as alone,
    bytes_of as bytes_of,
    cache_root as cache_root,
    new_folder as new_folder,
    origin_of as origin_of,
    remote_cache as remote_cache,
)
from .jsonio import (
    from_json as from_json,
    json_lines as json_lines,
    shown as shown,
    strict_json as strict_json,
    to_json as to_json,
)
from .locks import (
    locked as locked,
    locked_folder as locked_folder,
    locked_if_there as locked_if_there,
)
from .objects import (
    naming as naming,
)
from .outputs import (
    CORE_SUFFIX as CORE_SUFFIX,
    INDEX_NAME as INDEX_NAME,
    TASK_SUFFIX as TASK_SUFFIX,
    check_apart as check_apart,
    check_replaceable as check_replaceable,
    destination as destination,
    is_part as is_part,
    name_inside as name_inside,
)
from .reading import (
    MOST_CONFIG as MOST_CONFIG,
    HeldFile as HeldFile,
    Ranges as Ranges,
    StrPath as StrPath,
    file_hash as file_hash,
    open_regular as open_regular,
    read_regular as read_regular,
)
from .stores import (
    RemoteFile as RemoteFile,
    check_empty as check_empty,
    copy_to as copy_to,
    entry_of as entry_of,
    files_in as files_in,
    held_at as held_at,
    is_folder as is_folder,
    is_there as is_there,
    patiently as patiently,
    remove_file as remove_file,
    store_of as store_of,
)
from .writing import (
    clean as clean,
    is_unfinished as is_unfinished,
    replaced_file as replaced_file,
    replaced_folder as replaced_folder,
    scratch_folder as scratch_folder,
    sync_folder as sync_folder,
    write_atomically as write_atomically,
    write_new as write_new,
)
