"""The environment variables that a recipe's process may see: an allow-list, which keeps out secrets.

A recipe reads models from untrusted sources. It must therefore not see passwords and keys that the web
process has, such as DATABASE_URL, cloud access keys or CI tokens, whether Tiebreak uses them or not.
The only secret passed on is HF_TOKEN, without which gated models could not be downloaded.
"""

import os
from collections.abc import Mapping

NAMES = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOGNAME", "PATH", "SHELL",
        "CC", "CXX", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
        "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
        "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE",
        "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "TOKENIZERS_PARALLELISM",
        "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX",
        "PYTHONWARNINGS",
    }
)  # fmt: skip
PREFIXES = (
    "LC_",
    "HF_", "TRANSFORMERS_", "ACCELERATE_", "BITSANDBYTES_", "BNB_", "TRL_",
    "TORCH", "PYTORCH_", "TRITON_", "INDUCTOR_",
    "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_",
    "HIP_", "HSA_", "ROCR_", "MIOPEN_", "AMD_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "VECLIB_",
    "ARROW_", "MALLOC_",
)  # fmt: skip


def for_recipe(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a recipe may see, from `environment` or from this process's."""
    variables = os.environ if environment is None else environment
    return {name: value for name, value in variables.items() if allowed(name)}


def allowed(name: str) -> bool:
    """Return whether a variable is allowed. Variables for proxies may be in lower case (http_proxy)."""
    return name in NAMES or name.upper() in NAMES or name.startswith(PREFIXES)
