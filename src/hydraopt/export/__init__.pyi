from .formats import (
    FORMATS as FORMATS,
    export_task as export_task,
    find_format as find_format,
)
from .gguf import (
    export_gguf as export_gguf,
)
from .image import (
    export_diffusers as export_diffusers,
    export_kohya as export_kohya,
)
from .merged import (
    export_merged as export_merged,
)
from .mlx import (
    export_mlx as export_mlx,
)
from .onnx import (
    export_onnx as export_onnx,
)
from .vllm import (
    export_vllm as export_vllm,
)
