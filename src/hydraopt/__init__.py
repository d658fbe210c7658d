"""hydraopt: many LoRA adapters of one base model in one small bundle, and every adapter back.

    >>> import hydraopt
    >>> result = hydraopt.merge("adapters/*", "phone.hydra.safetensors")  # doctest: +SKIP
    >>> bundle = hydraopt.open_bundle("phone.hydra.safetensors")  # doctest: +SKIP
    >>> bundle["numbers-de"].save_pretrained("numbers-de/")  # doctest: +SKIP

The names below load on first use, so that ``import hydraopt`` and the command line start at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
