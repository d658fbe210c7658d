from .archives import (
    dtype_name as dtype_name,
    torch_dtype as torch_dtype,
)
from .bases import (
    BaseTensors as BaseTensors,
    base_key as base_key,
    base_label as base_label,
    check_same_base as check_same_base,
    open_base as open_base,
)
from .factors import (
    FactorProduct as FactorProduct,
    Held as Held,
    factor_part as factor_part,
    kept_scale as kept_scale,
    part_of_product as part_of_product,
    products as products,
    products_of_adapter as products_of_adapter,
)
from .formats import (
    read_again as read_again,
)
from .imagemodels import (
    component_of as component_of,
    family_of as family_of,
    is_image_model as is_image_model,
    is_numbered as is_numbered,
)
from .model import (
    Adapter as Adapter,
    ExtraKind as ExtraKind,
    Format as Format,
    Kind as Kind,
    Layout as Layout,
    LowRankModule as LowRankModule,
    check_name as check_name,
    factor_path as factor_path,
    is_entrywise as is_entrywise,
)
from .peft import (
    PREFIX as PREFIX,
    changed_base as changed_base,
    extra_kind as extra_kind,
    names_adapter as names_adapter,
    parse as parse,
    peft_name as peft_name,
    saved_names as saved_names,
    spell as spell,
)
from .reader import (
    Adapters as Adapters,
    Problems as Problems,
    read_adapter as read_adapter,
    read_adapters as read_adapters,
)
from .settings import (
    ScaleRule as ScaleRule,
    ranks_and_alphas as ranks_and_alphas,
    resolved_config as resolved_config,
    written_config as written_config,
)
from .start import (
    traced as traced,
    untraced as untraced,
)
from .tensorfile import (
    open_tensors as open_tensors,
)
from .tensors import (
    DTYPE_BYTES as DTYPE_BYTES,
    MOST_NUMBERS as MOST_NUMBERS,
    FileSpan as FileSpan,
    HeldBytes as HeldBytes,
    HeldSpan as HeldSpan,
    RawTensor as RawTensor,
    TensorFile as TensorFile,
    can_be_safetensors as can_be_safetensors,
    open_safetensors as open_safetensors,
    stamp_of as stamp_of,
)
from .tunerfiles import (
    factor_stems as factor_stems,
)
from .tuners import (
    beyond_linear as beyond_linear,
    beyond_lora as beyond_lora,
    changing as changing,
    not_linear as not_linear,
    other_tuner as other_tuner,
    tuner_named as tuner_named,
)
